"""An invitation: the address of a page on which one guest takes part in a training, with a browser."""

from __future__ import annotations

import datetime as dt
from urllib.parse import urlencode, urlsplit

from gridkit.cells import ShortDir
from gridkit.widgets.html import Html, card, details, tag

_QUIET = 4
"""modules of white around a QR code (ISO/IEC 18004)"""


class Invitation(ShortDir):
    """For one guest; who shows it in a notebook gives it to all who see it. Made by `grid.invite`.

    In a notebook it shows itself as a QR code, which is the invitation: it stays in a saved notebook, where it is worth
    nothing once it was used or has ended. Anywhere else it doesn't show its token; `url` has it.

    Attributes:
        name, version: of the training.
        page: the address without what makes it an invitation.
        url: the address to open. What stands behind its ``#``, the token too, is told to no server by a browser.
        expires_at: when it ends (UTC), if nobody has used it before.
        local: whether only this machine can open it.
    """

    def __init__(
        self, page: str, name: str, version: str, token: str, expires_at: dt.datetime, **facts: float | int
    ) -> None:
        self.page = page
        self.name = name
        self.version = version
        self.expires_at = expires_at
        self.url = f"{page}#{urlencode({'name': name, 'version': version, **facts, 'token': token})}"

    @property
    def local(self) -> bool:
        return urlsplit(self.page).hostname in ("127.0.0.1", "localhost", "::1")

    def __repr__(self) -> str:
        whom = "one guest on this machine" if self.local else "one guest"
        return f"<Invitation to {self.name!r} {self.version} for {whom}, until {self._until}, at {self.page}>"

    def _repr_html_(self) -> str:
        advice = _LOCAL if self.local else _PLAIN if self.page.startswith("http:") else None
        facts = {"for": "one guest, with any browser", "until": self._until, "at": self.page}
        return card(
            f"Invitation to '{self.name}' {self.version}",
            facts,
            tag("p", advice, style="max-width:40em") if advice else None,
            self.qr(),
            tag("p", tag("a", "Open it here", href=self.url, target="_blank", rel="noopener noreferrer")),
            details("The address, to send to the guest", tag("code", self.url, style="overflow-wrap:anywhere")),
        )

    @property
    def _until(self) -> str:
        return f"{self.expires_at:%Y-%m-%d %H:%M} UTC"

    def qr(self) -> Html:
        """The address as a QR code: an SVG element, black on white with the white edge that cameras need.

        Source: ISO/IEC 18004; error correction L, as it is shown on a screen.
        """
        import segno

        code = segno.make_qr(self.url, error="l", boost_error=False)
        size = code.symbol_size(border=_QUIET)[0]
        parts = []
        for y, row in enumerate(code.matrix_iter(border=_QUIET)):
            start = None
            for x, dark in enumerate([*row, 0]):  # a stroke a run of dark modules
                if dark and start is None:
                    start = x
                elif not dark and start is not None:
                    parts.append(f"M{start} {y}h{x - start}v1h-{x - start}z")
                    start = None
        return tag(
            "svg",
            tag("rect", width=size, height=size, fill="#fff"),
            tag("path", d="".join(parts), fill="#000"),
            viewBox=f"0 0 {size} {size}",
            width=4 * size,
            height=4 * size,
            role="img",
            aria_label=f"QR code of the invitation to '{self.name}' {self.version}; the address stands below as text",
            shape_rendering="crispEdges",
            style="max-width:100%;height:auto",
        )


_LOCAL = (
    "Only this machine can open it, as the node listens to nobody else. For phones and other machines of your network: "
    'gk.launch(host="0.0.0.0"), with certfile=… and keyfile=… if others share the network.'
)
_PLAIN = (
    "Without TLS everybody on the way can read and change what guest and node tell each other. For a network that "
    "you don't trust, start the node with certfile=… and keyfile=…."
)
