"""aiortc as a client of WHIP and WHEP. See session.py."""

import array
import asyncio
import fractions
import math
import time

from session import Perceived, Session, arguments, missing, report, when_input_ends

try:
    import numpy
    from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
    from aiortc.mediastreams import MediaStreamError
    from av import AudioFrame, VideoFrame
    from av.audio.resampler import AudioResampler
except ImportError as error:
    missing(f"aiortc ({error})")

RATE = 48_000


class Paced(MediaStreamTrack):
    """Frames in real time, each `ticks` of a clock of `rate` after the other."""

    def __init__(self, rate, ticks):
        super().__init__()
        self.rate, self.ticks = rate, ticks
        self.count, self.began = 0, None

    async def recv(self):
        self.began = self.began or time.monotonic()
        due = self.began + self.count * self.ticks / self.rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        frame = self.make(self.count)
        frame.pts, frame.time_base = self.count * self.ticks, fractions.Fraction(1, self.rate)
        self.count += 1
        return frame


class Picture(Paced):
    """One colour, with a bar that moves."""

    kind = "video"

    def __init__(self, colour):
        super().__init__(90_000, 6_000)
        self.colour = colour

    def make(self, count):
        pixels = numpy.empty((180, 320, 3), dtype=numpy.uint8)
        pixels[:] = self.colour
        pixels[140:160, count * 4 % 300 : count * 4 % 300 + 16] = 255
        return VideoFrame.from_ndarray(pixels, format="rgb24")


class Tone(Paced):
    kind = "audio"

    def __init__(self, hertz):
        super().__init__(RATE, RATE // 50)
        self.hertz = hertz

    def make(self, count):
        first = count * self.ticks
        wave = (math.sin(2 * math.pi * self.hertz * (first + n) / RATE) for n in range(self.ticks))
        frame = AudioFrame(format="s16", layout="mono", samples=self.ticks)
        frame.sample_rate = RATE
        frame.planes[0].update(array.array("h", (round(16_000 * sample) for sample in wave)).tobytes())
        return frame


async def see(track, perceived):
    while True:
        frame = await track.recv()
        pixels = frame.to_ndarray(format="rgb24")
        # A square in the upper left corner, where nothing is written over the colour.
        colour = pixels[16:24, 16:24].reshape(-1, 3).mean(axis=0)
        perceived.on_picture(frame.width, frame.height, colour.tolist())


async def hear(track, perceived):
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    while True:
        for frame in resampler.resample(await track.recv()):
            samples = array.array("h")
            samples.frombytes(bytes(frame.planes[0])[: 2 * frame.samples])
            perceived.on_sound(samples, RATE)


async def run(given):
    session, perceived = Session(given.endpoint, given.token), Perceived()
    connection, ended, tasks = RTCPeerConnection(), asyncio.Event(), set()
    loop = asyncio.get_running_loop()
    when_input_ends(lambda: loop.call_soon_threadsafe(ended.set))
    connection.on("connectionstatechange", lambda: report(connection=connection.connectionState))

    @connection.on("track")
    def on_track(track):
        task = asyncio.create_task((see if track.kind == "video" else hear)(track, perceived))
        tasks.add(task)
        task.add_done_callback(over)

    def over(task):
        # A track that has ended is none to watch; everything else is a failure.
        if not task.cancelled() and not isinstance(task.exception(), MediaStreamError):
            report(error=repr(task.exception()))
            ended.set()

    if given.protocol == "whip":
        connection.addTransceiver(Tone(given.tone), direction="sendonly")
        video = connection.addTransceiver(Picture(given.colour), direction="sendonly")
        codecs = RTCRtpSender.getCapabilities("video").codecs
        video.setCodecPreferences([codec for codec in codecs if codec.mimeType == f"video/{given.codec}"])
    else:
        for kind in ("audio", "video"):
            connection.addTransceiver(kind, direction="recvonly")
    # Every candidate is in the description then: aiortc does not trickle.
    await connection.setLocalDescription(await connection.createOffer())
    answer = await asyncio.to_thread(session.open, connection.localDescription.sdp)
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await ended.wait()
    await asyncio.to_thread(session.end)
    for task in tasks:
        task.cancel()
    await connection.close()


given = arguments(__doc__)
if given.protocol != "check":
    asyncio.run(run(given))
