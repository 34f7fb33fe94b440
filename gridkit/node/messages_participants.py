"""What registers push participants: ours, and the fl-demonstrator's form of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from gridkit.node.messages import AccountName, Message, Password, plain

Endpoint = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(plain)]
"""where a participant is told"""
Told = Annotated[str, Field(max_length=200), AfterValidator(plain)]
"""what a person says of themselves"""


class AddParticipant(Message):
    name: AccountName
    endpoint: Endpoint
    renew: bool = False
    """take another endpoint and other credentials, if there is this participant already"""


class RegisterUser(Message):
    """As the fl-demonstrator has it. Who says to be a superuser isn't heard: there is no such member."""

    username: AccountName
    password: Password
    message_endpoint: Endpoint
    actor: bool = False
    """makes trainings"""
    client: bool = True
    """takes part in trainings"""
    first_name: Told = ""
    last_name: Told = ""
    email: Told = ""
