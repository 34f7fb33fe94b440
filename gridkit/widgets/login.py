"""A form that asks for a name and a password. The notebook waits for nothing, and no password is saved with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import ipywidgets as W

from gridkit.widgets.form import WIDE, Form, wide
from gridkit.widgets.html import Html, card


class LoginForm(Form):
    """Name, password, Log in; Enter after the password does the same.

    Args:
        where: the node's address.
        log_in: starts a login; its future gives the name of the account.

    Example:
        >>> grid.authenticate()                                                     # doctest: +SKIP
    """

    def __init__(self, where: str, log_in: Callable[[str, str], Future[str]]) -> None:
        self._where = where
        self._log_in = log_in
        self.username = W.Text(description="User", style=WIDE, layout=wide(), continuous_update=False)
        self.password = W.Password(description="Password", style=WIDE, layout=wide(), continuous_update=False)
        self.button = W.Button(description="Log in", button_style="primary", icon="sign-in")
        self.button.tooltip = "The session then acts as this user"
        super().__init__([self.username, self.password, self.button])
        self.button.on_click(lambda _: self.submit())
        self._entered = False
        self.password.on_msg(self._on_key)
        self.password.observe(lambda _: self._came(), "value")

    def submit(self) -> None:
        """What the button does. Returns at once; while a login is under way, another one does nothing."""
        if self.button.disabled:
            return
        username, password = self.username.value.strip(), self.password.value
        self.password.value = ""  # a front-end may save what its fields hold
        if not username or not password:
            self.say("a user name and a password are needed")
            return
        self.button.disabled = True
        self.say("logging in …")
        self.ask(lambda: self._log_in(username, password), self._done, self._failed)

    def _on_key(self, _: W.Widget, content: dict[str, object], __: object) -> None:
        """Enter in the password's field. What is written there may have come already, or come after this."""
        if content.get("event") == "submit":
            self._entered = True
            self._came()

    def _came(self) -> None:
        if self._entered and self.password.value:
            self._entered = False
            self.submit()

    def _done(self, name: str) -> None:
        for part in (self.username, self.password, self.button):
            part.layout.display = "none"
        self.say(f"the session acts as {name}")
        self.update_twin()

    def _failed(self, error: BaseException) -> None:
        self.button.disabled = False
        self.say_error(error)

    def twin(self) -> tuple[str, Html]:
        facts = {"node": self._where, "status": self.said or "not logged in"}
        return f"Login at {self._where}: {facts['status']}", card("Login", facts)
