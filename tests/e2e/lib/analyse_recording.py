"""Says what is in a recording, and what of it is not as expected.

    .venv/bin/python lib/analyse_recording.py FILE [EXPECTED.json | -]

prints one JSON object; it ends with 1 where `failures` in it is not empty. The media is that of `flashes.js`: pictures of one
colour with a flash at every second, tones with a beep at the same moment, and a strip that tells which second it is. All times
are the file's: of decoded frames, as a player has them. Expected may be, each of it only if given:

    {"durationS": [least, most], "avOffsetMs": 40, "betweenMs": 100, "complete": true, "chapters": least,
     "steps": {"count": 1, "s": [least, most]},
     "tracks": [{"participant": "alice", "source": "camera", "codec": "vp8", "colour": [224, 32, 32],
                 "startS": [least, most], "endS": [least, most], "framesPerS": [least, most], "sizes": [[320, 180]],
                 "flashes": least, "gapS": most, "keyFrameS": most},
                {"participant": "alice", "source": "microphone", "codec": "opus", "toneHz": 440, "beeps": least, "gapS": most}]}

`complete`: there are no other tracks. `steps`: how often, and by how much altogether, the file's clock leaves out time.
Without expectations only what holds for every recording is checked: it decodes without a word, `mkvmerge` finds nothing wrong,
times ascend, video begins with a key frame, and the file knows how long it is.
"""

import faulthandler
import json
import subprocess
import sys
import tempfile

import av
import numpy

SAMPLE_RATE = 48_000
# The layout of the picture, as `flashes.js` draws it.
STRIP_BITS = 8
STRIP_HEIGHT = 1 / 6
PLAIN = (0.05, 0.5, 0.1, 0.7)  # left, right, top, bottom of what has nothing drawn on it
BEEP_S = 0.1
# Nearer to the end of a track a beep may be cut.
EDGE_S = 0.05
LONG_EVERY = 4  # divides the seconds that the strip can tell
# A flash is at least so much brighter or darker than the picture, of 255.
FLASH_LEAST = 40
# A picture is late after so much of the usual time.
LATE = 1.4
COLOUR_TOLERANCE = 70
TONE_TOLERANCE_HZ = 12
# What the file's clock may be off by before it counts as a step.
STEP_S = 0.25
# A flash and a beep that are further apart belong to different seconds.
PAIR_S = 0.5
# Sound goes on when the next frame begins so much after the end of the last at most: times are rounded to milliseconds.
GAP_S = 0.006
ROUNDED_S = 0.002
# A Cluster may hold a track back so long at most, against the others.
BACKWARDS_MS = 1_000
LIMIT_S = 60


def main():
    # Whatever is wrong with a file, this ends, and says where it was.
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    expected = {}
    if len(sys.argv) > 2:
        expected = json.load(sys.stdin if sys.argv[2] == "-" else open(sys.argv[2], encoding="utf-8"))
    report = analyse(sys.argv[1])
    report["failures"] += compare(report, expected)
    print(json.dumps(report, indent=1, default=float))
    sys.exit(1 if report["failures"] else 0)


def analyse(path):
    """Everything that can be said without knowing what should be there."""
    report = {"file": path, "failures": structure_failures(path)}
    try:
        probed = probe(path)
        report["format"] = probed["format"]
        report["chapters"] = [chapter.get("tags", {}).get("title") for chapter in probed["chapters"]]
        report["tracks"] = [describe(stream) for stream in probed["streams"]]
        report["failures"] += packet_failures(path, report["tracks"])
        for track in report["tracks"]:
            measure = {"video": measure_video, "audio": measure_audio}.get(track["kind"])
            if measure:
                measure(path, track)
    except (av.FFmpegError, KeyError, ValueError, subprocess.CalledProcessError) as error:
        report.setdefault("tracks", [])
        report["failures"].append(f"it cannot be read: {error!r}")
    report["sync"] = synchrony(report["tracks"])
    duration = float(report.get("format", {}).get("duration") or 0)
    report["durationS"] = duration
    if not duration > 0:
        report["failures"].append("the file does not say how long it is")
    ends = [track["endS"] for track in report["tracks"] if track.get("endS") is not None]
    if ends and abs(duration - max(ends)) > 0.1:
        report["failures"].append(f"it says {duration} s, but its last frame ends at {max(ends):.3f} s")
    return report


def structure_failures(path):
    """What tools say that should have nothing to say."""
    failures = []
    decoded = run(["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-map", "0:v?", "-map", "0:a?", "-enc_time_base", "-1", "-f", "null", "-"])
    if decoded.returncode or decoded.stderr or decoded.stdout:
        failures.append(f"ffmpeg: exit code {decoded.returncode}: {decoded.stderr[:500]}")
    merged = json.loads(run(["mkvmerge", "-J", path]).stdout or "{}")
    if not merged.get("container", {}).get("recognized") or merged.get("errors") or merged.get("warnings"):
        failures.append(f"mkvmerge: {merged.get('errors')} {merged.get('warnings')}")
    with tempfile.NamedTemporaryFile(suffix=".mkv") as copy:
        # This reads all of it.
        copied = run(["mkvmerge", "-q", "-o", copy.name, path])
    if copied.returncode or copied.stdout or copied.stderr:
        failures.append(f"mkvmerge: exit code {copied.returncode}: {copied.stdout[:300]}")
    info = run(["mkvinfo", path])
    if info.returncode or "(MKVInfo)" in info.stdout + info.stderr:
        failures.append(f"mkvinfo: exit code {info.returncode}: {(info.stdout + info.stderr)[-300:]}")
    elif "+ Cues" not in info.stdout:
        # Without -v -v it may stop at the first Cluster, but it shows what the SeekHead leads to.
        if "+ Cues" not in run(["mkvinfo", "-v", "-v", path]).stdout:
            failures.append("there are no Cues")
    return failures


def run(command):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def probe(path):
    result = run(["ffprobe", "-v", "warning", "-show_format", "-show_streams", "-show_chapters", "-of", "json", path])
    if result.stderr:
        raise ValueError(f"ffprobe: {result.stderr[:500]}")
    return json.loads(result.stdout)


def describe(stream):
    tags = {name.lower(): value for name, value in stream.get("tags", {}).items()}
    track = {
        "index": stream["index"],
        "kind": stream["codec_type"],
        "codec": stream["codec_name"],
        "title": tags.get("title"),
        "language": tags.get("language"),
        "tags": tags,
    }
    if track["kind"] == "video":
        track["size"] = [stream["width"], stream["height"]]
    return track


def packet_failures(path, tracks):
    """Fills in what is known of packets. In the order of the file, since that is what a player reads."""
    failures = []
    latest = 0
    backwards = 0
    seen = {}
    with av.open(path) as container:
        for packet in container.demux():
            if packet.size == 0 or packet.pts is None:
                continue
            at = float(packet.pts * packet.time_base) * 1_000
            latest = max(latest, at)
            backwards = max(backwards, latest - at)
            seen.setdefault(packet.stream_index, []).append((at, packet.is_keyframe))
    for track in tracks:
        packets = seen.get(track["index"], [])
        track["packets"] = len(packets)
        if not packets:
            failures.append(f"{name_of(track)}: no packets")
            continue
        times = [at for at, _ in packets]
        for before, after in zip(times, times[1:]):
            if after < before or (after == before and track["kind"] == "video"):
                failures.append(f"{name_of(track)}: {after:.0f} ms comes after {before:.0f} ms")
                break
        if track["kind"] == "video":
            keys = [at for at, is_key in packets if is_key]
            if not packets[0][1]:
                failures.append(f"{name_of(track)}: it does not begin with a key frame")
            track["keyFrames"] = len(keys)
            track["keyFrameS"] = max(numpy.diff([*keys, times[-1]]), default=0) / 1_000 if keys else None
    if backwards > BACKWARDS_MS:
        failures.append(f"tracks are up to {backwards:.0f} ms apart in the order of the file")
    return failures


def name_of(track):
    return f"track {track['index']} ({track['title'] or track['kind']})"


# Video


def measure_video(path, track):
    times, plain, strips, sizes = [], [], [], []
    with av.open(path) as container:
        for frame in container.decode(container.streams[track["index"]]):
            times.append(frame.time)
            planes = yuv_planes(frame)
            plain.append([numpy.mean(crop(plane, *PLAIN)) for plane in planes])
            strips.append(read_strip(planes[0]))
            if [frame.width, frame.height] not in sizes:
                sizes.append([frame.width, frame.height])
    track.update(frames=len(times), sizes=sizes, startS=None, endS=None)
    if not times:
        return
    times, plain = numpy.array(times), numpy.array(plain)
    steps = numpy.diff(times)
    usual = float(numpy.median(steps)) if len(steps) else 0
    track.update(startS=times[0], endS=times[-1] + usual, gapS=max(steps, default=0))
    track["framesPerS"] = len(times) / (times[-1] - times[0] + usual) if usual else 0
    # Most of the time there is no flash.
    usual_colour = numpy.median(plain, axis=0)
    track["colour"] = [round(value) for value in rgb(usual_colour)]
    difference = numpy.abs(plain[:, 0] - usual_colour[0])
    lit = difference > max(FLASH_LEAST, max(difference) / 2)
    # A flash that has begun before the first picture is none that can be measured.
    edges = [n for n in range(1, len(lit)) if lit[n] and not lit[n - 1]]
    # Where pictures come late it is not known when it began.
    track["flashes"] = [{"atS": times[n], "second": strips[n], "isSharp": steps[n - 1] < LATE * usual} for n in edges]
    unroll(track["flashes"])


def yuv_planes(frame):
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        frame = frame.reformat(format="yuv420p")
    found = []
    for n, plane in enumerate(frame.planes):
        width, height = (frame.width, frame.height) if n == 0 else ((frame.width + 1) // 2, (frame.height + 1) // 2)
        found.append(numpy.frombuffer(plane, numpy.uint8).reshape(-1, plane.line_size)[:height, :width])
    return found


def crop(plane, left, right, top, bottom):
    height, width = plane.shape
    return plane[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]


def rgb(colour):
    """BT.601, limited range, as for whatever does not say what it is. Some encode by another matrix: colours are only near."""
    y, u, v = 1.164 * (colour[0] - 16), colour[1] - 128, colour[2] - 128
    return [min(255, max(0, value)) for value in (y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u)]


def read_strip(luma):
    """The second that the strip tells, or None where it cannot be read."""
    value = 0
    for bit in range(STRIP_BITS):
        cell = crop(luma, (bit + 0.25) / STRIP_BITS, (bit + 0.75) / STRIP_BITS, 1 - STRIP_HEIGHT * 0.75, 1 - STRIP_HEIGHT * 0.25)
        level = numpy.mean(cell)
        if 90 < level < 165:
            return None
        value = value * 2 + (level > 128)
    return int(value)


def unroll(flashes):
    """Seconds that go on where the strip begins anew."""
    latest = None
    for flash in flashes:
        if flash["second"] is None:
            continue
        if latest is not None:
            while flash["second"] < latest - 2 ** (STRIP_BITS - 1):
                flash["second"] += 2**STRIP_BITS
        latest = flash["second"]


# Audio


def measure_audio(path, track):
    pieces, expected_next, gaps = [], None, []
    with av.open(path) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(container.streams[track["index"]]):
            at = float(frame.pts * frame.time_base)
            if expected_next is not None and at - expected_next > GAP_S:
                gaps.append([expected_next, at])
            expected_next = at + frame.samples / frame.sample_rate
            for converted in resampler.resample(frame):
                pieces.append((at, converted.to_ndarray()[0]))
    track.update(frames=len(pieces), startS=None, endS=None)
    if not pieces:
        return
    track.update(startS=pieces[0][0], endS=expected_next, gaps=gaps, gapS=max((to - of for of, to in gaps), default=0))
    track["silentS"] = sum(to - of for of, to in gaps)
    samples, offset = on_clock(pieces)
    track["toneHz"] = dominant_tone(samples)
    track["beeps"] = beeps_of(samples, offset, track["toneHz"])


def on_clock(pieces):
    """
    All samples where the file's clock has them, and the time of the first. What a gap leaves out is silence. Times are rounded to
    milliseconds, so that what goes on is put where it goes on.
    """
    offset = pieces[0][0]
    length = max(at - offset + len(piece) / SAMPLE_RATE for at, piece in pieces)
    samples = numpy.zeros(int(length * SAMPLE_RATE) + SAMPLE_RATE // 10, numpy.float32)
    end = 0
    for at, piece in pieces:
        start = max(0, round((at - offset) * SAMPLE_RATE))
        if abs(start - end) < ROUNDED_S * SAMPLE_RATE:
            start = end
        samples[start : start + len(piece)] = piece[: len(samples) - start]
        end = start + len(piece)
    return samples, offset


def dominant_tone(samples):
    size = 16_384
    if len(samples) < size:
        return None
    windows = numpy.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2]
    power = numpy.zeros(size // 2 + 1)
    for window in windows:
        power += numpy.abs(numpy.fft.rfft(window * numpy.hanning(size))) ** 2
    power[: int(100 * size / SAMPLE_RATE)] = 0
    return float(numpy.argmax(power) * SAMPLE_RATE / size) if power.max() > 1e-6 else None


def beeps_of(samples, offset, tone_hz):
    """Where the loudness of the tone is half way to that of a beep; the window is around each moment."""
    if tone_hz is None:
        return []
    phase = numpy.exp(-2j * numpy.pi * tone_hz * numpy.arange(len(samples)) / SAMPLE_RATE)
    window = round(SAMPLE_RATE * 4 / tone_hz)
    loudness = numpy.abs(numpy.convolve(samples * phase, numpy.full(window, 1 / window), "same"))
    usual, beeping = numpy.percentile(loudness, [50, 98])
    if beeping < 2 * usual:
        return []
    threshold = (usual + beeping) / 2
    loud = loudness > threshold
    edges = numpy.flatnonzero(numpy.diff(loud.astype(numpy.int8)))
    beeps = []
    for edge in edges:
        at = offset + edge / SAMPLE_RATE
        if loud[edge + 1]:
            # What falls silent for less than a moment was one beep.
            if beeps and at - beeps[-1]["atS"] < 3 * BEEP_S:
                continue
            beeps.append({"atS": at, "lengthS": None})
        elif beeps:
            beeps[-1]["lengthS"] = at - beeps[-1]["atS"]
    return [beep for beep in beeps if beep["lengthS"] is not None]


# How tracks agree


def participant_of(track):
    """Whose a track is, and its source, by what the file says of it."""
    tags = track["tags"]
    named = [name for name in ("participant_id", "participant") if name in tags]
    participant = tags[named[0]] if named else None
    source = next((value for name, value in tags.items() if name.endswith("source")), None)
    said = f"{track['title'] or ''} {source or ''}".lower()
    is_screen = "screen" in said
    default = {"video": "screen" if is_screen else "camera", "audio": "screen-audio" if is_screen else "microphone"}
    return participant, source or default.get(track["kind"])


def synchrony(tracks):
    """Offsets of flashes and beeps that belong together, in milliseconds: positive is a flash that comes late."""
    people = {}
    for track in tracks:
        participant, source = participant_of(track)
        track["participant"], track["source"] = participant, source
        if "flashes" in track or "beeps" in track:
            # Who is in the call twice has several tracks of the same kind, one after the other.
            key = (participant, "screen" if source in ("screen", "screen-audio") else "camera")
            marks = people.setdefault(key, {"flashes": [], "beeps": []})
            marks["flashes"] += track.get("flashes", [])
            # One that the track begins or ends in is as long as what is left of it.
            inside = lambda beep: track["startS"] + EDGE_S < beep["atS"] and beep["atS"] + beep["lengthS"] < track["endS"] - EDGE_S
            marks["beeps"] += filter(inside, track.get("beeps", []))
    sync = {"participants": {}, "between": {}, "steps": []}
    clocks = {}
    told = [flash["second"] for marks in people.values() for flash in marks["flashes"] if flash["second"] is not None]
    base = told[0] if told else 0
    for (participant, what), marks in people.items():
        name = f"{participant}" if what == "camera" else f"{participant}/{what}"
        offsets, wrong = [], 0
        for flash in marks["flashes"]:
            beep = min(marks["beeps"], key=lambda beep: abs(beep["atS"] - flash["atS"]), default=None)
            if beep is None or abs(beep["atS"] - flash["atS"]) > PAIR_S:
                continue
            if not flash["isSharp"]:
                continue
            offsets.append((flash["atS"] - beep["atS"]) * 1_000)
            # A beep that is too long or short for the second of its flash is that of another one.
            is_long = beep["lengthS"] > 1.5 * BEEP_S
            wrong += flash["second"] is not None and is_long != (flash["second"] % LONG_EVERY == 0)
        sync["participants"][name] = {"flashes": len(marks["flashes"]), "pairs": len(offsets), "otherSecond": int(wrong), **spread(offsets)}
        known = [flash for flash in marks["flashes"] if flash["isSharp"] and flash["second"] is not None]
        clocks[name] = {base + since(base, flash["second"]): flash["atS"] for flash in known}
        sync["steps"] += [{"participant": name, **step} for step in steps_of(clocks[name])]
    names = sorted(clocks)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            common = sorted(clocks[one].keys() & clocks[other].keys())
            offsets = [(clocks[one][second] - clocks[other][second]) * 1_000 for second in common]
            sync["between"][f"{one} {other}"] = {"pairs": len(offsets), **spread(offsets)}
    every = [at - second for clock in clocks.values() for second, at in clock.items()]
    # When the file begins, by the strip's clock, which knows no more than 256 seconds.
    sync["beginsAtS"] = -float(numpy.median(every)) if every else None
    return sync


def since(base, second):
    """The strip knows no more than 256 seconds, and no recording here is half as long."""
    return (second - base + 128) % 256 - 128


def spread(offsets):
    if not offsets:
        return {"p50Ms": None, "p99Ms": None, "maxMs": None, "meanMs": None}
    size = numpy.abs(offsets)
    return {
        "p50Ms": float(numpy.percentile(size, 50)),
        "p99Ms": float(numpy.percentile(size, 99)),
        "maxMs": float(max(size)),
        "meanMs": float(numpy.mean(offsets)),
    }


def steps_of(clock):
    """Where the file's clock leaves out time, or has too much of it: negative is left out."""
    seconds = sorted(clock)
    found = []
    for before, after in zip(seconds, seconds[1:]):
        by = (clock[after] - clock[before]) - (after - before)
        if abs(by) > STEP_S:
            found.append({"atS": clock[before], "byS": by})
    return found


# What should be there


def compare(report, expected):
    failures = []

    def check(what, value, limits):
        if limits is not None and not (value is not None and limits[0] <= value <= limits[1]):
            failures.append(f"{what}: {value} is not from {limits[0]} to {limits[1]}")

    def at_most(what, value, most):
        if most is not None and not (value is not None and value <= most):
            failures.append(f"{what}: {value}, at most {most}")

    check("duration", report["durationS"], expected.get("durationS"))
    if len(report.get("chapters", [])) < expected.get("chapters", 0):
        failures.append(f"chapters: {report['chapters']}")
    rest = list(report["tracks"])
    for wanted in expected.get("tracks", []):
        name = f"{wanted['participant']}'s {wanted['source']}"
        same = [track for track in rest if (track["participant"], track["source"]) == (wanted["participant"], wanted["source"])]
        if not same:
            failures.append(f"{name}: there is no such track")
            continue
        # Of several of the same, in the order in which they begin.
        track = same[0]
        rest.remove(track)
        compare_track(name, track, wanted, failures, check, at_most)
    if expected.get("complete") and rest:
        failures.append(f"more tracks than expected: {[name_of(track) for track in rest]}")
    sync = report["sync"]
    for name, offsets in sync["participants"].items():
        if "avOffsetMs" in expected and offsets["pairs"]:
            at_most(f"flashes and beeps of {name} apart, ms", offsets["p99Ms"], expected["avOffsetMs"])
        if "avOffsetMs" in expected and offsets["flashes"] > 2 * max(1, offsets["pairs"]):
            failures.append(f"{name}: of {offsets['flashes']} flashes only {offsets['pairs']} can be measured")
        if offsets["otherSecond"]:
            failures.append(f"{name}: {offsets['otherSecond']} of {offsets['pairs']} beeps are of another second")
    if "avOffsetMs" in expected and not any(offsets["pairs"] for offsets in sync["participants"].values()):
        failures.append("there is no flash with its beep")
    if "betweenMs" in expected:
        for names, offsets in sync["between"].items():
            if offsets["pairs"]:
                at_most(f"{names} apart, ms", offsets["p99Ms"], expected["betweenMs"])
        if not any(offsets["pairs"] for offsets in sync["between"].values()):
            failures.append("no second is seen of two participants")
    compare_steps(sync["steps"], expected.get("steps", {"count": 0}), failures, check)
    return failures


def compare_track(name, track, wanted, failures, check, at_most):
    if wanted.get("codec", track["codec"]) != track["codec"]:
        failures.append(f"{name}: {track['codec']}, expected {wanted['codec']}")
    if "colour" in wanted:
        seen = track.get("colour")
        if seen is None or numpy.linalg.norm(numpy.subtract(seen, wanted["colour"])) > COLOUR_TOLERANCE:
            failures.append(f"{name}: its colour is {seen}, expected {wanted['colour']}")
    if "toneHz" in wanted:
        check(f"{name}: tone", track.get("toneHz"), [wanted["toneHz"] - TONE_TOLERANCE_HZ, wanted["toneHz"] + TONE_TOLERANCE_HZ])
    for member in ("startS", "endS", "framesPerS"):
        check(f"{name}: {member}", track.get(member), wanted.get(member))
    for member in ("gapS", "keyFrameS"):
        at_most(f"{name}: {member}", track.get(member), wanted.get(member))
    for member in ("flashes", "beeps"):
        if len(track.get(member, [])) < wanted.get(member, 0):
            failures.append(f"{name}: {len(track.get(member, []))} {member}, at least {wanted[member]} expected")
    missing = [size for size in wanted.get("sizes", []) if size not in track.get("sizes", [])]
    if missing:
        failures.append(f"{name}: sizes {track.get('sizes')}, expected {missing} as well")


def compare_steps(steps, wanted, failures, check):
    """Of each participant on its own: the file has one clock."""
    people = sorted({f"{step['participant']}" for step in steps}) or ["everybody"]
    for person in people:
        own = [float(step["byS"]) for step in steps if f"{step['participant']}" == person]
        if len(own) != wanted.get("count", 0):
            failures.append(f"{person}: its clock has the steps {own}, expected {wanted.get('count', 0)}")
        check(f"{person}: what its clock leaves out", -sum(own), wanted.get("s"))


if __name__ == "__main__":
    main()
