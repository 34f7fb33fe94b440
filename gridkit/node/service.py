"""All that a node can do, as its routes reach it."""

from __future__ import annotations

from dataclasses import dataclass

from gridkit.node.accounts import Accounts
from gridkit.node.datasets import Datasets
from gridkit.node.models import Models
from gridkit.node.notifier import Notifier
from gridkit.node.participants import Participants
from gridkit.node.peers import Peers
from gridkit.node.projects import Projects
from gridkit.node.push_models import PushModels
from gridkit.node.push_trainings import PushTrainings
from gridkit.node.push_updates import PushUpdates
from gridkit.node.rights import Access
from gridkit.node.rpc.sessions import Sessions
from gridkit.node.trainings import Trainings
from gridkit.node.uploads import Uploads
from gridkit.node.watch import Watch


@dataclass(frozen=True, slots=True)
class Service:
    """The use-cases of one node, a part each. They take checked values and a `Principal`, and raise typed errors."""

    access: Access
    watch: Watch
    accounts: Accounts
    trainings: Trainings
    models: Models
    datasets: Datasets
    peers: Peers
    uploads: Uploads
    participants: Participants
    notifier: Notifier
    push_models: PushModels
    push_trainings: PushTrainings
    push_updates: PushUpdates
    projects: Projects
    rpc: Sessions
