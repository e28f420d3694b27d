"""What the peers have in common: a session of WHIP (RFC 9725) or WHEP by plain HTTP, the command line, and reports.

A peer is a program that is told on its command line what to send or to watch, prints what happens as one JSON object a line,
and ends its session when its standard input ends. Needs nothing but Python's own library.
"""

import argparse
import array
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

# What the test runner takes for "skipped".
EXIT_SKIPPED = 77


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("protocol", choices=["whip", "whep", "check"], help="publish, watch, or say whether it could")
    parser.add_argument("--endpoint", help="URL of the WHIP or WHEP endpoint")
    parser.add_argument("--token", help="JSON Web Token")
    parser.add_argument("--codec", choices=["VP8", "H264"], default="VP8", help="of the picture that is published")
    parser.add_argument("--colour", default="224,32,32", help="of the picture that is published: red,green,blue")
    parser.add_argument("--tone", type=int, default=440, help="of the sound that is published, in Hz")
    parser.add_argument("--trickle", action="store_true", help="send candidates after the offer")
    given = parser.parse_args()
    given.colour = [int(part) for part in given.colour.split(",")]
    return given


def missing(what):
    """Says that the peer cannot run here, and ends it."""
    print(f"SKIPPED: missing {what}: run tests/e2e/setup.sh", flush=True)
    sys.exit(EXIT_SKIPPED)


def report(**values):
    print(json.dumps(values), flush=True)


def when_input_ends(call):
    """Calls from another thread; whoever started the peer may also just vanish."""

    def wait():
        # Not by sys.stdin, whose lock would be in the way of an interpreter that ends for another reason.
        while os.read(0, 4096):
            pass
        call()

    threading.Thread(target=wait, daemon=True).start()


class Session:
    """The resource at the server. Calls block."""

    def __init__(self, endpoint, token):
        self.endpoint = endpoint
        self.token = token
        self.location = None
        self.etag = None

    def open(self, offer):
        """Sends the offer; returns the answer."""
        response = self._request("POST", self.endpoint, offer, {"Content-Type": "application/sdp"})
        if response.status != 201 or response.headers.get_content_type() != "application/sdp":
            raise RuntimeError(f"POST: {response.status} {dict(response.headers)}")
        self.location = urllib.parse.urljoin(self.endpoint, response.headers["Location"])
        self.etag = response.headers["ETag"]
        report(location=self.location, etag=self.etag)
        return response.read().decode()

    def trickle(self, offer, candidates):
        """Sends candidates (lines without `a=`) that were found after the offer had gone out."""
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": self.etag}
        response = self._request("PATCH", self.location, fragment(offer, candidates), headers)
        report(trickled=len(candidates), status=response.status)

    def end(self):
        """Ends the session, if it was opened."""
        if self.location:
            response = self._request("DELETE", self.location, None, {})
            report(ended=response.status)

    def _request(self, method, url, body, headers):
        data = body.encode() if body is not None else None
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            return urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {url}: {error.code} {error.read().decode(errors='replace')}") from None


def fragment(offer, candidates):
    """application/trickle-ice-sdpfrag (RFC 8840)."""
    lines = offer.splitlines()
    first = lambda start: next(line for line in lines if line.startswith(start))
    head = [first(start) for start in ("a=group:BUNDLE", "a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:")]
    return "".join(f"{line}\r\n" for line in head + [f"a={candidate}" for candidate in candidates])


class Perceived:
    """Counts what a viewer gets, and reports it a few times a second."""

    INTERVAL = 0.2

    def __init__(self):
        self._lock = threading.Lock()
        self._next = 0.0
        self._values = {"frames": 0, "colour": None, "size": None, "samples": 0, "hertz": None}
        self._samples = array.array("h")

    def on_picture(self, width, height, colour):
        """A decoded picture; `colour` is the average of a part of it."""
        with self._lock:
            self._values["frames"] += 1
            self._values.update(colour=[round(part) for part in colour], size=[width, height])
            self._report()

    def on_sound(self, samples, rate):
        """Decoded samples of one channel, 16 bits each."""
        with self._lock:
            self._values["samples"] += len(samples)
            self._samples.extend(samples)
            # Half a second, to count waves in.
            del self._samples[: max(0, len(self._samples) - rate // 2)]
            self._values["hertz"] = hertz(self._samples, rate) if len(self._samples) >= rate // 2 else None
            self._report()

    def _report(self):
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.INTERVAL
            report(perceived=self._values)


def hertz(samples, rate):
    """The frequency of a pure tone, by how often it rises through zero; None for silence."""
    loudest = max(max(samples), -min(samples))
    if loudest < 500:
        return None
    waves, is_low = 0, False
    for sample in samples:
        if sample < -loudest // 4:
            is_low = True
        elif is_low and sample > loudest // 4:
            waves, is_low = waves + 1, False
    return round(waves * rate / len(samples))
