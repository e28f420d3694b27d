#!/usr/bin/python3
"""GStreamer's webrtcbin as a client of WHIP and WHEP. See session.py."""

import threading

from session import Perceived, Session, arguments, missing, report, when_input_ends

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstWebRTC", "1.0")
    gi.require_version("GstSdp", "1.0")
    from gi.repository import GLib, Gst, GstSdp, GstWebRTC
except (ImportError, ValueError) as error:
    missing(f"GStreamer for Python ({error})")

ELEMENTS = "webrtcbin nicesrc dtlsdec srtpdec vp8enc vp8dec openh264enc avdec_h264 opusenc opusdec rtpvp8pay rtph264pay rtpopuspay"

VIDEO_CAPS = {
    "VP8": "encoding-name=VP8,payload=96",
    "H264": "encoding-name=H264,payload=97,packetization-mode=(string)1,profile-level-id=(string)42c01f",
}
ENCODERS = {
    "VP8": "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=60 ! rtpvp8pay picture-id-mode=15-bit pt=96",
    "H264": "openh264enc gop-size=60 complexity=low ! video/x-h264,profile=constrained-baseline ! rtph264pay pt=97 config-interval=-1 aggregate-mode=zero-latency",
}
AUDIO_CAPS = "application/x-rtp,media=audio,clock-rate=48000,encoding-name=OPUS,payload=111,encoding-params=(string)2"


def video_caps(codec):
    feedback = "rtcp-fb-nack-pli=true,rtcp-fb-nack=true"
    return f"application/x-rtp,media=video,clock-rate=90000,{VIDEO_CAPS[codec]},{feedback}"


class Peer:
    def __init__(self, given):
        self.given = given
        self.session = Session(given.endpoint, given.token)
        self.perceived = Perceived()
        self.loop = GLib.MainLoop()
        self.candidates = []
        self.failure = None
        if given.protocol == "whip":
            self.pipeline = self.publisher()
        else:
            self.pipeline = Gst.Pipeline.new()
            self.webrtc = Gst.ElementFactory.make("webrtcbin")
            self.pipeline.add(self.webrtc)
        # All lines go over one connection.
        self.webrtc.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.webrtc.connect("on-negotiation-needed", self.on_negotiation_needed)
        self.webrtc.connect("on-ice-candidate", self.on_ice_candidate)
        self.webrtc.connect("notify::ice-gathering-state", self.on_gathering)
        self.webrtc.connect("notify::connection-state", self.on_connection)
        if given.protocol == "whep":
            self.webrtc.connect("pad-added", self.on_pad_added)
            for caps in (AUDIO_CAPS, ";".join(video_caps(codec) for codec in VIDEO_CAPS)):
                direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
                self.webrtc.emit("add-transceiver", direction, Gst.Caps.from_string(caps))
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: self.fail(f"{message.parse_error()}"))
        when_input_ends(lambda: GLib.idle_add(self.loop.quit))

    def publisher(self):
        red, green, blue = self.given.colour
        colour = 0xFF000000 | red << 16 | green << 8 | blue
        pipeline = Gst.parse_launch(
            f"webrtcbin name=webrtc "
            f"videotestsrc is-live=true pattern=solid-color foreground-color={colour} "
            f"! video/x-raw,format=I420,width=320,height=180,framerate=15/1,colorimetry=bt601 "
            f"! queue ! {ENCODERS[self.given.codec]} ! {video_caps(self.given.codec)} ! webrtc. "
            f"audiotestsrc is-live=true wave=sine freq={self.given.tone} volume=0.5 ! audio/x-raw,rate=48000,channels=2 "
            f"! queue ! opusenc ! rtpopuspay pt=111 ! {AUDIO_CAPS} ! webrtc."
        )
        self.webrtc = pipeline.get_by_name("webrtc")
        for index in range(2):
            transceiver = self.webrtc.emit("get-transceiver", index)
            transceiver.set_property("direction", GstWebRTC.WebRTCRTPTransceiverDirection.SENDONLY)
            transceiver.set_property("do-nack", True)
        return pipeline

    def run(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        self.loop.run()
        self.session.end()
        self.pipeline.set_state(Gst.State.NULL)
        if self.failure:
            raise SystemExit(self.failure)

    def fail(self, why):
        self.failure = self.failure or why
        GLib.idle_add(self.loop.quit)

    # ---- negotiation ----

    def on_negotiation_needed(self, _):
        self.webrtc.emit("create-offer", None, Gst.Promise.new_with_change_func(self.on_offer))

    def on_offer(self, promise):
        promise.wait()
        reply = promise.get_reply()
        offer = reply.get_value("offer")
        self.webrtc.emit("set-local-description", offer, Gst.Promise.new())
        if self.given.trickle:
            self.negotiate(offer.sdp.as_text())

    def on_ice_candidate(self, _, _line, candidate):
        self.candidates.append(candidate)

    def on_gathering(self, *_):
        if self.webrtc.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            return
        # Every candidate is in the description by now.
        offer = self.webrtc.get_property("local-description").sdp.as_text()
        if self.given.trickle:
            self.in_background(lambda: self.session.trickle(offer, self.candidates))
        else:
            self.negotiate(offer)

    def negotiate(self, offer):
        def ask():
            _, message = GstSdp.SDPMessage.new_from_text(self.session.open(offer))
            answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
            self.webrtc.emit("set-remote-description", answer, Gst.Promise.new())

        self.in_background(ask)

    def in_background(self, work):
        """One request after the other, away from webrtcbin's own thread."""
        before = getattr(self, "background", None)

        def run():
            if before:
                before.join()
            try:
                work()
            except Exception as error:
                self.fail(f"{error}")

        self.background = threading.Thread(target=run, daemon=True)
        self.background.start()

    def on_connection(self, *_):
        report(connection=self.webrtc.get_property("connection-state").value_nick)

    # ---- what comes in ----

    def on_pad_added(self, _, pad):
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        report(caps=pad.get_current_caps().to_string())
        decoder = Gst.ElementFactory.make("decodebin")
        decoder.connect("pad-added", self.on_decoded)
        self.pipeline.add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))

    def on_decoded(self, _, pad):
        if pad.get_current_caps().get_structure(0).get_name().startswith("video"):
            convert, caps, handler = "videoconvert", "video/x-raw,format=RGB", self.on_picture
        else:
            convert, caps, handler = "audioconvert ! audioresample", "audio/x-raw,format=S16LE,rate=48000,channels=1", self.on_sound
        description = f"queue ! {convert} ! {caps} ! appsink name=sink emit-signals=true sync=false"
        branch = Gst.parse_bin_from_description(description, True)
        branch.get_by_name("sink").connect("new-sample", handler)
        self.pipeline.add(branch)
        branch.sync_state_with_parent()
        pad.link(branch.get_static_pad("sink"))

    def on_picture(self, sink):
        sample = sink.emit("pull-sample")
        structure = sample.get_caps().get_structure(0)
        width, height = structure.get_value("width"), structure.get_value("height")
        data = contents(sample)
        stride = (3 * width + 3) // 4 * 4
        # A square in the upper left corner, where nothing is written over the colour.
        pixels = [data[y * stride + 3 * x : y * stride + 3 * x + 3] for y in range(16, 24) for x in range(16, 24)]
        self.perceived.on_picture(width, height, [sum(part) / len(pixels) for part in zip(*pixels)])
        return Gst.FlowReturn.OK

    def on_sound(self, sink):
        data = contents(sink.emit("pull-sample"))
        self.perceived.on_sound(memoryview(data[: len(data) // 2 * 2]).cast("h"), 48_000)
        return Gst.FlowReturn.OK


def contents(sample):
    buffer = sample.get_buffer()
    return buffer.extract_dup(0, buffer.get_size())


def main():
    given = arguments(__doc__)
    Gst.init(None)
    absent = [name for name in ELEMENTS.split() if not Gst.ElementFactory.find(name)]
    if absent:
        missing(f"GStreamer's {', '.join(absent)}")
    if given.protocol != "check":
        Peer(given).run()


main()
