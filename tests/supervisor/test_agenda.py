"""Steps with a time limit, and whose fault it is when it is over."""

from holdfast.supervisor.agenda import Agenda, Step


def test_a_step_that_lasts_too_long_is_told_once() -> None:
    told: list[str] = []
    agenda = Agenda([Step("wait", lambda: None, lambda: False, lambda: 2.0, lambda: told.append("late"))], lambda _name: None)
    for now in (100.0, 101.9):
        agenda.advance(now)
    assert (told, agenda.next_deadline()) == ([], 102.0)
    for now in (102.1, 105.0):
        agenda.advance(now)
    assert (told, agenda.next_deadline()) == (["late"], None)


def test_who_has_stood_still_itself_waits_once_more() -> None:
    """A process that was told to leave two seconds ago may have stood still for as long."""
    told: list[str] = []
    agenda = Agenda([Step("wait", lambda: None, lambda: False, lambda: 2.0, lambda: told.append("late"))], lambda _name: None)
    for now in (100.0, 105.0, 106.9):
        agenda.advance(now)
    assert (told, agenda.next_deadline()) == ([], 107.0)
    agenda.advance(107.0)
    assert told == ["late"]
