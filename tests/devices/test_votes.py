"""What several processes agree on, a step later."""

import jax

from generalist.devices.mesh import make_mesh
from generalist.devices.votes import Votes


def test_one_process_goes_by_its_own_answers_at_once():
    votes = Votes(make_mesh())
    assert votes.any(True, False) == [True, False]
    assert votes.any(False, True) == [False, True]


def test_several_processes_get_every_answer_once_and_a_step_later(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    votes = Votes(make_mesh())
    asked = [(False, True), (False, False), (True, True), (False, False)]
    answers = [votes.any(*own) for own in asked]
    assert answers == [[False, False], *map(list, asked[:-1])]
