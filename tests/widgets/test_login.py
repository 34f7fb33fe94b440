"""The form that asks for a name and a password."""

from __future__ import annotations

import json
from concurrent.futures import Future

from gridkit.errors import AccessError
from gridkit.widgets.login import LoginForm
from tests.support import wait_for


class Node:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: list[Future[str]] = []

    def log_in(self, username: str, password: str) -> Future[str]:
        self.asked.append((username, password))
        self.answers.append(Future())
        return self.answers[-1]


def form_of(node: Node, username: str = "ada", password: str = "hunter2") -> LoginForm:
    form = LoginForm("http://node", node.log_in)
    form.username.value, form.password.value = username, password
    return form


def test_a_click_starts_a_login_and_waits_for_nothing() -> None:
    node = Node()
    form = form_of(node, " ada ")
    form.button.click()
    assert node.asked == [("ada", "hunter2")] and form.said == "logging in …"
    form.submit()
    assert len(node.asked) == 1  # while one is under way
    node.answers[0].set_result("ada")
    wait_for(lambda: form.said == "the session acts as ada")
    assert form.button.layout.display == "none"


def test_a_refused_login_can_be_tried_again() -> None:
    node = Node()
    form = form_of(node)
    form.submit()
    node.answers[0].set_exception(AccessError("Invalid username/password!"))
    wait_for(lambda: form.said == "AccessError: Invalid username/password!")
    form.password.value = "another"
    form.submit()
    assert node.asked[1] == ("ada", "another")
    node.answers[1].set_result("ada")
    wait_for(lambda: "acts as ada" in form.said)


def test_nothing_is_sent_without_a_name_and_a_password() -> None:
    node = Node()
    for username, password in (("", "x"), ("ada", ""), ("  ", "x")):
        form = form_of(node, username, password)
        form.submit()
        assert node.asked == [] and "are needed" in form.said


def test_w17_the_password_is_in_nothing_that_a_notebook_saves() -> None:
    node = Node()
    form = form_of(node)
    form.submit()
    node.answers[0].set_exception(AccessError("Invalid username/password!"))
    wait_for(lambda: not form.button.disabled)
    states = [part.get_state() for part in (form, *form.children)]
    saved = json.dumps([states, form._repr_mimebundle_(), repr(form)], default=repr)
    assert "hunter2" not in saved and "ada" in saved


def test_enter_after_the_password_logs_in_whether_the_password_comes_before_it_or_after() -> None:
    """A page sends the key at once, and the field when it is done with."""
    enter = {"event": "submit"}
    node = Node()
    form = form_of(node)
    form.password._handle_custom_msg({"event": "other"}, [])
    assert node.asked == []
    form.password._handle_custom_msg(enter, [])
    assert node.asked == [("ada", "hunter2")]

    node = Node()
    form = form_of(node, password="")
    form.password._handle_custom_msg(enter, [])
    assert node.asked == []
    form.password.value = "hunter3"
    assert node.asked == [("ada", "hunter3")] and form.password.value == ""


def test_a_password_that_is_left_with_tab_is_not_sent() -> None:
    node = Node()
    form_of(node).password.value = "hunter3"
    assert node.asked == []
