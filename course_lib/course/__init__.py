"""The learner's side: checked exercises, hints, solutions, quizzes, progress, and the set-up of a notebook.

from course_lib.course import check, hint, mine, quiz, solution
"""

from course_lib.course.environment import start
from course_lib.course.session import Session

_session = Session()
check, hint, solution = _session.check, _session.hint, _session.solution
quiz, mine, progress = _session.quiz, _session.mine, _session.progress

__all__ = ["check", "hint", "mine", "progress", "quiz", "solution", "start"]
