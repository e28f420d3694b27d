// Runs in the pages of the tests, in every browser. One expression that fills `globalThis.e2e`.
globalThis.e2e = (() => {
  const lines = [];
  const began = performance.now();

  /** Far enough apart that every codec and colour matrix keeps them distinct. */
  const COLOURS = {
    red: [224, 32, 32],
    green: [32, 160, 64],
    blue: [32, 64, 224],
    yellow: [224, 208, 32],
    magenta: [200, 32, 200],
    cyan: [32, 190, 200],
    white: [240, 240, 240],
    black: [8, 8, 8],
  };

  /** So much later than usual is a stall. */
  const STALL_MS = 80;

  function log(text, data) {
    let more = "";
    try {
      more = data === undefined ? "" : ` ${JSON.stringify(data)}`;
    } catch {
      more = " (not printable)";
    }
    lines.push(`${(performance.now() - began).toFixed(0).padStart(6)} ms  ${text}${more}`.slice(0, 700));
    if (lines.length > 2_000) lines.shift();
  }

  // Media made in the page

  let audioContext = null;
  function audio() {
    audioContext ??= new AudioContext();
    if (audioContext.state === "suspended") audioContext.resume().catch(() => {});
    return audioContext;
  }

  /** A picture of one colour with a running counter, so that the encoder has something to do. */
  function makeVideo(colour, { width = 320, height = 180, fps = 15 } = {}) {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const [r, g, b] = COLOURS[colour];
    let count = 0;
    const draw = () => {
      context.fillStyle = `rgb(${r},${g},${b})`;
      context.fillRect(0, 0, width, height);
      context.fillStyle = "#fff";
      context.font = `${Math.round(height / 6)}px monospace`;
      context.fillText(String(count), width * 0.6, height * 0.8);
      count += 1;
      stalls.beat("drawing", 1000 / fps);
    };
    draw();
    setInterval(draw, 1000 / fps);
    return canvas.captureStream(fps).getVideoTracks()[0];
  }

  /** Of the tones that are made here. */
  const gains = [];

  function setLoudness(loudness) {
    for (const gain of gains) gain.gain.value = loudness;
  }

  function makeAudio(hertz, loudness = 0.5) {
    const context = audio();
    const oscillator = context.createOscillator();
    const gain = context.createGain();
    const destination = context.createMediaStreamDestination();
    oscillator.frequency.value = hertz;
    gain.gain.value = loudness;
    gains.push(gain);
    oscillator.connect(gain).connect(destination);
    oscillator.start();
    return destination.stream.getAudioTracks()[0];
  }

  function makeMedia({ colour, tone, loudness, ...size } = {}) {
    const tracks = [];
    if (tone) tracks.push(makeAudio(tone, loudness));
    if (colour) tracks.push(makeVideo(colour, size));
    return new MediaStream(tracks);
  }

  /** When something regular came late: whatever else was late at that time may be so for the same reason. */
  const stalls = (() => {
    const last = new Map();
    const found = [];
    return {
      found,
      beat(name, period) {
        const now = clock();
        const before = last.get(name) ?? now;
        if (now - before > period + STALL_MS) found.push({ name, from: before, to: now });
        last.set(name, now);
      },
    };
  })();

  /** Milliseconds that are the same in all pages. */
  function clock() {
    return performance.timeOrigin + performance.now();
  }

  // What is seen and heard

  const videos = new Map();
  const ears = new Map();

  function videoOf(track) {
    let video = videos.get(track.id);
    if (!video) {
      video = document.createElement("video");
      video.muted = true;
      video.autoplay = true;
      video.playsInline = true;
      video.srcObject = new MediaStream([track]);
      document.body.append(video);
      video.play().catch(() => {});
      videos.set(track.id, video);
      const onFrame = () => {
        video.lastFrameAt = performance.now();
        video.requestVideoFrameCallback(onFrame);
      };
      video.requestVideoFrameCallback(onFrame);
    }
    return video;
  }

  /** Average colour near the upper left corner of a <video>, and the known colour it is nearest to. */
  function look(video) {
    if (!video.videoWidth) return { ok: false, why: "no picture yet" };
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 16;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const { videoWidth: width, videoHeight: height } = video;
    context.drawImage(video, width * 0.05, height * 0.08, width * 0.1, height * 0.15, 0, 0, 16, 16);
    const { data } = context.getImageData(0, 0, 16, 16);
    const sum = [0, 0, 0];
    for (let at = 0; at < data.length; at += 4) for (let c = 0; c < 3; c += 1) sum[c] += data[at + c];
    const rgb = sum.map((value) => Math.round(value / 256));
    let best = null;
    for (const [name, known] of Object.entries(COLOURS)) {
      const distance = Math.hypot(...known.map((value, c) => value - rgb[c]));
      if (!best || distance < best.distance) best = { name, distance };
    }
    return { ok: best.distance < 70, colour: best.name, distance: Math.round(best.distance), rgb, width, height };
  }

  function lookAtTrack(track) {
    if (!track) return { ok: false, why: "no track" };
    const video = videoOf(track);
    // An element keeps showing the last frame; a slot even that of whoever had it before.
    const age = performance.now() - (video.lastFrameAt ?? -Infinity);
    const fresh = age < 1_000 && !(video.lastFrameAt < (state.subscribedAt.get(track.id) ?? 0));
    return fresh ? look(video) : { ok: false, why: "no new frame", age: Math.round(Math.min(age, 1e9)) };
  }

  /** The loudest frequency of a track. Chromium gives a remote track's samples only while an element plays it. */
  function listen(track) {
    if (!track) return { ok: false, why: "no track" };
    let ear = ears.get(track.id);
    if (!ear) {
      const context = audio();
      const stream = new MediaStream([track]);
      const element = document.createElement("audio");
      element.muted = true;
      element.srcObject = stream;
      element.play().catch(() => {});
      const analyser = context.createAnalyser();
      analyser.fftSize = 8192;
      analyser.smoothingTimeConstant = 0;
      context.createMediaStreamSource(stream).connect(analyser);
      ear = { element, analyser };
      ears.set(track.id, ear);
    }
    const bins = new Float32Array(ear.analyser.frequencyBinCount);
    ear.analyser.getFloatFrequencyData(bins);
    let loudest = 0;
    for (let bin = 1; bin < bins.length; bin += 1) if (bins[bin] > bins[loudest]) loudest = bin;
    const hertz = (loudest * audioContext.sampleRate) / ear.analyser.fftSize;
    const decibel = bins[loudest];
    return {
      ok: decibel > -70,
      hertz: Math.round(hertz),
      decibel: Number.isFinite(decibel) ? Math.round(decibel) : null,
      context: audioContext.state,
    };
  }

  // A participant made with the SDK

  const state = { subscribedAt: new Map(), call: null, joinedAt: null, subscriptions: [], firstFrames: {}, events: [], chats: [], datas: [], closed: null };

  /**
   * `also`: types of events to keep beside the usual ones. `encrypted`: with the hooks in `e2e.encryption`. `media` may be
   * `devices`, or `flashes` for that of `e2e.flashes`.
   */
  async function join({ colour, tone, loudness, size, media, also = [], encrypted = false, ...options }) {
    const { Call } = await import("/client.js");
    const stream = media === "devices" ? await navigator.mediaDevices.getUserMedia({ audio: true, video: true }) : null;
    if (media === "flashes") state.flashes = globalThis.e2e.flashes.make({ colour, tone, loudness, ...size });
    const made = stream ?? (media === "flashes" ? state.flashes.stream : colour || tone ? makeMedia({ colour, tone, loudness, ...size }) : null);
    const call = new Call({
      ...options,
      localStream: made ?? undefined,
      ...(encrypted && { e2ee: globalThis.e2e.encryption }),
      log: (level, text, data) => log(`${level} ${text}`, data),
    });
    Object.assign(state, { call, joinedAt: null, subscriptions: [], firstFrames: {}, events: [], chats: [], datas: [], closed: null, stream: made });
    for (const type of [
      "connection-state",
      "reconnecting",
      "reconnected",
      "waiting",
      "participant-joined",
      "participant-left",
      "participant-updated",
      "track-subscribed",
      "track-unsubscribed",
      "muted",
      "error",
      "closed",
      "room-closed",
      "kicked",
      "server-draining",
      ...also,
    ]) {
      call.addEventListener(type, ({ detail }) => {
        const { participant, track, stream: _, error, ...plain } = detail ?? {};
        state.events.push({ type, ...plain });
        log(`event ${type}`, plain);
      });
    }
    call.addEventListener("joined", () => {
      state.joinedAt = performance.now();
    });
    call.addEventListener("chat", ({ detail: { userId, text, to } }) => state.chats.push({ userId, text, to }));
    call.addEventListener("data", ({ detail: { userId, value } }) => state.datas.push({ userId, value }));
    call.addEventListener("closed", ({ detail }) => {
      state.closed = detail;
    });
    call.addEventListener("track-subscribed", ({ detail }) => {
      const { userId, source, kind, track } = detail;
      state.subscribedAt.set(track.id, performance.now());
      if (kind !== "video") {
        listen(track);
        return;
      }
      const video = videoOf(track);
      const seen = () => {
        const found = look(video);
        // A slot may still show the last picture of whoever had it before.
        if (!found.ok) {
          video.requestVideoFrameCallback(seen);
          return;
        }
        state.firstFrames[`${userId}/${source}`] ??= Math.round(performance.now() - state.joinedAt);
      };
      video.requestVideoFrameCallback(seen);
    });
    state.connectAt = performance.now();
    await call.connect();
    return { userId: call.local.userId, participants: [...call.participants.keys()] };
  }

  function participant(userId) {
    return state.call?.participants.get(userId) ?? null;
  }

  /** Everything a participant perceives: who is there, in which colour, with which tone. */
  function perceive() {
    const all = {};
    for (const [userId, person] of state.call.participants) {
      const picture = lookAtTrack(person.stream("camera")?.getVideoTracks()[0]);
      const sound = listen(person.stream("microphone")?.getAudioTracks()[0]);
      all[userId] = {
        colour: picture.ok ? picture.colour : null,
        tone: sound.ok ? sound.hertz : null,
        muted: person.muted,
        picture,
        sound,
      };
    }
    return all;
  }

  /** Counters of what is received from somebody; compare two readings. */
  async function counters(userId) {
    const result = { frames: 0, videoBytes: 0, audioPackets: 0, energy: 0, codec: null };
    const person = participant(userId);
    if (!person) return result;
    for (const [source, stream] of person.streams) {
      const track = stream.getTracks()[0];
      const receiver = state.call.peerConnection.getReceivers().find((candidate) => candidate.track === track);
      const report = await receiver?.getStats();
      for (const entry of report?.values() ?? []) {
        if (entry.type !== "inbound-rtp") continue;
        if (entry.kind === "video") {
          result.frames += entry.framesDecoded ?? 0;
          result.videoBytes += entry.bytesReceived ?? 0;
          result.codec = report.get(entry.codecId)?.mimeType ?? result.codec;
        } else if (source === "microphone") {
          result.audioPackets += entry.packetsReceived ?? 0;
          result.energy += entry.totalAudioEnergy ?? 0;
        }
      }
    }
    return result;
  }

  /** A video that is received now: counters, to be compared with later ones, and the size of the latest picture. */
  async function inbound(userId, source = "camera") {
    const track = participant(userId)?.stream(source)?.getVideoTracks()[0];
    const receiver = state.call.peerConnection.getReceivers().find((candidate) => candidate.track === track);
    for (const entry of (await receiver?.getStats())?.values() ?? []) {
      if (entry.type !== "inbound-rtp") continue;
      return {
        frames: entry.framesDecoded ?? 0,
        width: entry.frameWidth ?? 0,
        height: entry.frameHeight ?? 0,
        freezes: entry.freezeCount ?? 0,
        dropped: entry.framesDropped ?? 0,
        received: entry.framesReceived ?? 0,
        keyFrames: entry.keyFramesDecoded ?? 0,
        plis: entry.pliCount ?? 0,
        bytes: entry.bytesReceived,
        packets: entry.packetsReceived,
      };
    }
    return null;
  }

  /** What is sent of videos, by the names of the encodings. */
  async function outbound() {
    const found = {};
    for (const entry of (await state.call.getStats()).values()) {
      if (entry.type !== "outbound-rtp" || entry.kind !== "video") continue;
      found[entry.rid ?? ""] = {
        frames: entry.framesEncoded,
        width: entry.frameWidth ?? 0,
        bytes: entry.bytesSent,
        plis: entry.pliCount,
        keyFrames: entry.keyFramesEncoded,
        mode: entry.scalabilityMode ?? null,
        active: entry.active,
      };
    }
    return found;
  }

  /**
   * Notes from now on when pictures of a track are shown. `beside` is a track whose pictures are regular, whatever happens
   * to the first: when they are late, so is everything.
   */
  function watch(track, beside) {
    const pictures = [];
    const onEvery = (video, note) => {
      const onPicture = (_, metadata) => {
        note(metadata);
        video.requestVideoFrameCallback(onPicture);
      };
      video.requestVideoFrameCallback(onPicture);
    };
    onEvery(videoOf(track), ({ width, height }) => pictures.push({ at: clock(), width, height }));
    onEvery(videoOf(beside), () => stalls.beat("picture", 70));
    setInterval(() => stalls.beat("timer", 20), 20);
    return {
      pictures,
      /** The longest time without a picture since `from`. */
      gap(from) {
        const longest = { ms: 0, from, to: from };
        let before = pictures.findLast(({ at }) => at <= from)?.at ?? from;
        for (const { at } of [...pictures.filter((picture) => picture.at > from), { at: clock() }]) {
          if (at - before > longest.ms) Object.assign(longest, { ms: at - before, from: before, to: at });
          before = at;
        }
        return longest;
      },
    };
  }

  /** The candidate pair that carries the media of a connection. */
  async function nominatedPair(connection = state.call.peerConnection) {
    const report = await connection.getStats();
    for (const entry of report.values()) {
      if (entry.type !== "candidate-pair" || !entry.nominated || entry.state !== "succeeded") continue;
      const local = report.get(entry.localCandidateId);
      const remote = report.get(entry.remoteCandidateId);
      return {
        local: local?.candidateType,
        protocol: local?.protocol ?? null,
        relayProtocol: local?.relayProtocol ?? null,
        remote: remote?.candidateType,
        address: remote?.address ?? null,
        sent: entry.bytesSent,
        received: entry.bytesReceived,
      };
    }
    return null;
  }

  function report() {
    const call = state.call;
    const head = call
      ? {
          state: call.state,
          media: call.peerConnection?.connectionState,
          ice: call.peerConnection?.iceConnectionState,
          signaling: call.peerConnection?.signalingState,
          participants: [...call.participants.values()].map((person) => ({
            userId: person.userId,
            muted: person.muted,
            tracks: [...person.tracks.values()].map(({ trackId, kind, source, mid }) => ({ trackId, kind, source, mid })),
          })),
          closed: state.closed,
        }
      : null;
    return `${JSON.stringify(head, null, 1)}\n${lines.slice(-120).join("\n")}`;
  }

  return {
    COLOURS,
    state,
    log,
    makeVideo,
    makeAudio,
    makeMedia,
    setLoudness,
    look,
    lookAtTrack,
    listen,
    join,
    participant,
    perceive,
    counters,
    inbound,
    outbound,
    watch,
    stalls,
    clock,
    nominatedPair,
    report,
  };
})();
