/**
 * Browser SDK of WebRTC Engine: one ES module, no dependencies.
 *
 * ```js
 * import { Call } from "/client.js";
 *
 * const call = new Call({ token, roomId: "standup", displayName: "Ada" });
 * call.addEventListener("track-subscribed", ({ detail }) => {
 *   video.srcObject = detail.stream;
 * });
 * await call.connect();
 * await call.publish(await call.capture());
 * ```
 *
 * How it works: one WebSocket carries signaling ({@link Socket}), one `RTCPeerConnection` carries all media in both
 * directions ({@link Peer}). The offer comes from here and holds the senders plus a number of receive-only *slots*. The
 * server fills and refills the slots and tells by `track-subscribed` whose track a slot carries, so that people come and
 * go without any SDP.
 *
 * What is lost comes back by itself: a lost or silent socket is opened again and joins with the resume token, a lost
 * media connection is offered again with an ICE restart, or built anew with the same publications. Meanwhile the state
 * is `reconnecting`; events tell only what really changed.
 *
 * @module client
 */

/** Version of this module; the server that serves it speaks the same protocol. */
export const VERSION = "0.1.0";

const PROTOCOL = "webrtc-engine.v1";
const SOCKET_PATH = "/video-calls/ws";
const SFU = "sfu";

/** Receive slots in the first offer. More is a larger SDP for everyone; beyond that the server shows the active speakers. */
const INITIAL_SLOTS = { audio: 3, video: 9 };
/** Receive slots at most, as the server accepts. */
const MAX_SLOTS = { audio: 16, video: 16 };
/** Between two offers; the server accepts 2 a second with a burst of 10. */
const OFFER_GAP_MS = 300;
const OFFER_TIMEOUT_MS = 15_000;
const CONNECT_TIMEOUT_MS = 20_000;
/** A wait between two tries of an offer that the server refused for a passing reason. */
const OFFER_RETRY_MS = 1_000;
/** A `muted` about oneself within this time after one's own message is taken for its echo. */
const MUTE_ECHO_MS = 3_000;

/** Browsers show neither the server's pings nor a dead network, so the SDK sends pings of its own. */
const PING_INTERVAL_MS = 5_000;
/** Without a word after a ping the socket is taken for dead. Lower finds it out sooner, and drops sockets on bad networks. */
const SILENCE_MS = 8_000;
/** The same where something says that the network has changed. */
const PROBE_MS = 3_000;

/** Between two reports of pictures that stood still. */
const FREEZES_INTERVAL_MS = 10_000;

/** Waits between two tries to reach the server: doubled each time, with jitter. */
const RETRY = { firstMs: 300, maxMs: 5_000 };
/** For opening a socket and for the reply to the join while reconnecting; the network may come back during it. */
const RETRY_ATTEMPT_MS = 5_000;
/** A socket that is still not open after this may wait for a retransmission. */
const STALE_OPENING_MS = 500;
/** Browsers let a page close with a code of its own, or as if all were done. */
const BACK_SOON = 3001;
/** How long the server keeps a participant that is lost. */
const RECONNECT_TIMEOUT_MS = 30_000;
/** When a network comes back late, as after sleep, it is given this long. */
const RECONNECT_GRACE_MS = 10_000;

/** `disconnected` often heals by itself: one lost check is enough for it. */
const DISCONNECTED_MS = 2_000;
/** Between two ICE restarts while media stays lost. */
const RESTART = { firstMs: 2_000, maxMs: 8_000 };
/** After so many restarts in vain a connection is built anew: the fault may lie elsewhere than on the network. */
const RESTARTS_UNTIL_REBUILD = 4;

/**
 * The encodings of a camera: what is halved in width and height needs about a third of the bitrate. `floor` keeps small
 * ones watchable where an operator allows little.
 */
const LAYERS = {
  l: { rid: "l", scaleResolutionDownBy: 4, share: 0.08, floor: 100_000 },
  m: { rid: "m", scaleResolutionDownBy: 2, share: 0.3, floor: 300_000 },
  h: { rid: "h", scaleResolutionDownBy: 1, share: 1, floor: 0 },
};
/** Longer side of a capture from which on it is worth three encodings, or two: a quarter of less is a blur. */
const THREE_LAYERS_FROM = 960;
const TWO_LAYERS_FROM = 480;
/** Of a shared screen. With three temporal layers it can be thinned to 10 and 5 frames per second. */
const SCREEN_FRAMERATE = 20;
const SCREEN_CAPTURE = {
  video: { frameRate: { max: SCREEN_FRAMERATE }, width: { max: 2560 }, height: { max: 1440 } },
  // It is no voice: what helps a microphone spoils music. Those in the call are not sent back to themselves.
  audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false, restrictOwnAudio: true },
};

/** Of a data channel message with all that belongs to it, as the server accepts. */
const MESSAGE_MAX = 64 * 1024;
/** What may wait in the browser for the network; more is held back here, and lossy messages are dropped instead. */
const BUFFERED_MAX = { reliable: 256 * 1024, lossy: 64 * 1024 };
/** What may wait here; more is refused, so that a sender that does not wait cannot fill the memory. */
const WAITING_MAX = 1024 * 1024;
const REOPEN = { firstMs: 300, maxMs: 10_000 };
const DEPENDENCY_DESCRIPTOR = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
/** Labels, which are the server's too. */
const RELIABLE = "reliable";
const LOSSY = "lossy";

/**
 * The largest picture worth having, in sizes of its element. Layers are a factor of 2 apart and the server sends none above
 * the limit, so what comes is between three quarters of the element's size and this.
 */
const VIEW_MARGIN = 1.5;
/** Sizes of pictures are asked for in steps, and not more often than this. */
const VIEW_STEP = 16;
const VIEW_GAP_MS = 500;
/** What is out of sight is paused after this: scrolling back and forth should not stop and start it. */
const VIEW_HIDE_MS = 1_500;

/** Close codes of the signaling socket. */
export const CloseCode = Object.freeze({
  LEFT: 1000,
  GOING_AWAY: 1001,
  ABNORMAL: 1006,
  POLICY: 1008,
  KICKED: 4001,
  CALL_ENDED: 4002,
  REPLACED: 4003,
  TOKEN_EXPIRED: 4004,
});

/** An error with the stable, machine-readable `code` of the server, or one of the SDK's own. */
export class CallError extends Error {
  /**
   * @param {string} code
   * @param {string} [message]
   * @param {{cause?: unknown, request?: string}} [more]
   */
  constructor(code, message, more = {}) {
    super(message || code, more.cause === undefined ? undefined : { cause: more.cause });
    this.name = "CallError";
    /** Stable and machine-readable, e.g. `invalid_token`, `call_full`. */
    this.code = code;
    /** Type of the message that was refused, when known. */
    this.request = more.request ?? null;
  }
}

/** Somebody in the call, oneself included. */
export class Participant {
  /**
   * @param {string} userId
   * @param {boolean} [local]
   */
  constructor(userId, local = false) {
    this.userId = userId;
    this.local = local;
    this.displayName = userId;
    this.role = "participant";
    /** @type {any} */
    this.metadata = null;
    this.muted = { audio: false, video: false };
    /**
     * What one may do, as the server says; of oneself only.
     * @type {any}
     */
    this.permissions = null;
    /** `"lost"` while the server waits for the participant to come back. */
    this.connection = "ok";
    /** Audio level of the last `active-speaker`, 0 to 1; 0 when silent. */
    this.level = 0;
    /** How good the connection is, 1 (bad) to 5; `null` before the server has said. */
    this.quality = null;
    this.qualityReason = null;
    /**
     * What the participant publishes, by track id; received or not.
     * @type {Map<string, import("./client.d.ts").TrackInfo>}
     */
    this.tracks = new Map();
    /**
     * One stream per source (`camera`, `microphone`, `screen`, `screen-audio`) that is received now.
     * @type {Map<string, MediaStream>}
     */
    this.streams = new Map();
  }

  /** The stream of a source that is received now, or `null`. */
  stream(source = "camera") {
    return this.streams.get(source) ?? null;
  }
}

/**
 * One participation in one call. See `client.d.ts` for options, methods and the type of every event.
 */
export class Call extends EventTarget {
  /** Joins a call: `new Call(options)` and `connect()` in one step. */
  static async connect(options) {
    const call = new Call(options);
    await call.connect();
    return call;
  }

  #options;
  #log;
  /** Where one is in the call, whatever the network does: `new`, `connecting`, `waiting`, `in` or `closed`. */
  #phase = "new";
  /** What was told last; made of the phase and of both connections by {@link Call##refresh}. */
  #state = "new";
  #connecting = null;

  #token;
  /** @type {Socket|null} */
  #socket = null;
  #joinTimer = null;
  /** The server takes messages of ours: joined, on the present socket. */
  #signaling = false;
  #nextRequest = 1;
  /** Requests without an answer so far: id to what to do about it. */
  #requests = new Map();
  #joined = null;
  #recording = null;
  #freezesTold = "";
  /** @type {{at: number, resumed: boolean}|null} */
  #outage = null;
  #giveUpAt = 0;
  /** Ends a wait between two tries. */
  #endPause = null;
  #hurried = false;
  /** Removes the listeners for changes of the network. */
  #watch = null;

  /** @type {Peer|null} */
  #peer = null;
  /** `none` before media was connected for the first time, then `up` or `down`. */
  #media = "none";
  #mediaTimer = null;
  #restarts = 0;

  /** Participants by user id, without oneself. */
  #participants = new Map();
  #local = new Participant("", true);
  /** When one's own mute or unmute was last sent, to tell its echo from somebody else's order. */
  #muteSentAt = { audio: -Infinity, video: -Infinity };
  /** Kinds whose mute changed while there was nobody to tell. */
  #muteUnsent = new Set();

  /**
   * Data channels by label.
   * @type {Map<string, Channel>}
   */
  #channels = new Map();
  /** What one wishes to receive, by target: {target, own, views, sent}. */
  #wishes = new Map();
  /**
   * Elements that show somebody.
   * @type {Set<View>}
   */
  #views = new Set();
  /** @type {Set<Publication>} */
  #publications = new Set();
  /** What each receive m-line carries: mid to {kind, mid, transceiver, userId, trackId, source}. */
  #slots = new Map();
  /** Receive transceivers asked for, per kind, whether negotiated or not. */
  #slotCount = { audio: 0, video: 0 };

  /** @param {import("./client.d.ts").CallOptions} options */
  constructor(options) {
    super();
    const { token, getToken, roomId } = options ?? {};
    if ((typeof token !== "string" || token === "") && typeof getToken !== "function") {
      throw new TypeError("Call needs a token, or getToken");
    }
    if (typeof roomId !== "string" || roomId === "") {
      throw new TypeError("Call needs a roomId");
    }
    this.#options = { ...options };
    this.#token = token || null;
    this.#log = options.log ?? defaultLog();
    this.#local.displayName = options.displayName ?? "";
    for (const kind of ["audio", "video"]) this.#local.muted[kind] = Boolean(options.muted?.[kind]);
    this.#local.metadata = options.metadata ?? null;
    if (options.localStream) {
      for (const track of options.localStream.getTracks()) this.#register(track, {});
    }
  }

  // What can be asked

  /** `new`, `connecting`, `waiting`, `joined`, `connected`, `reconnecting` or `closed`. */
  get state() {
    return this.#state;
  }

  get roomId() {
    return this.#options.roomId;
  }

  /** Oneself; `userId` and `role` are known once joined. */
  get local() {
    return this.#local;
  }

  /** The others, by user id. */
  get participants() {
    return this.#participants;
  }

  /** The data of the server's `joined`, or `null` before. */
  get joined() {
    return this.#joined;
  }

  /** Wishes of the server for what is sent: bitrates, codec, size, frame rate. */
  get encoding() {
    return this.#joined?.encoding ?? null;
  }

  /** The connection that carries the media now, for statistics and experiments; another one after some reconnections. */
  get peerConnection() {
    return this.#peer?.pc ?? null;
  }

  /** Report of the media connection; an empty one before there is a connection. */
  async getStats() {
    return this.#peer ? this.#peer.pc.getStats() : new Map();
  }

  // Joining and leaving

  /**
   * Opens the socket, joins and sends the first offer. Resolves when the server has let us in and answered the offer;
   * media may still be connecting (`connection-state` tells). Rejects with a {@link CallError}.
   */
  connect() {
    this.#connecting ??= this.#connect();
    return this.#connecting;
  }

  async #connect() {
    if (this.#phase === "closed") throw new CallError("closed", "The call is over");
    this.#phase = "connecting";
    this.#refresh();
    try {
      // The certificate and the receive slots are made while the socket opens.
      this.#buildPeer();
      this.#capture();
      this.#watchNetwork();
      try {
        await this.#enter(CONNECT_TIMEOUT_MS);
      } catch (error) {
        // A lobby can take long, and is worth the same patience as a call.
        if (this.#phase !== "waiting" || !this.#isPassing(error)) throw error;
        await this.#enterAgain();
      }
      await this.#startMedia();
    } catch (error) {
      const failure = toCallError(error);
      this.#log("warn", "connect failed", { code: failure.code, message: failure.message });
      this.#close(CloseCode.ABNORMAL, failure.message, failure.code);
      throw failure;
    }
  }

  /** Opens the devices that the options ask for, while joining. Without them one can still watch and listen. */
  async #capture() {
    const { capture: wishes } = this.#options;
    if (!wishes) return;
    try {
      const stream = await capture(wishes === true ? {} : wishes);
      if (this.#phase === "closed") stream.getTracks().forEach((track) => track.stop());
      else await this.publish(stream);
    } catch (error) {
      this.#report(error);
    }
  }

  /** Opens a socket and joins; with another token where the one at hand is refused and the application can give one. */
  async #enter(timeoutMs) {
    const known = this.#token;
    const token = await this.#freshToken();
    try {
      return await this.#enterWith(token, timeoutMs);
    } catch (error) {
      const isRefused = error.code === "invalid_token" || error.code === "token_expired";
      if (!isRefused || !this.#options.getToken || token !== known) throw error;
      this.#token = null;
      return await this.#enterWith(await this.#freshToken(), timeoutMs);
    }
  }

  async #enterWith(token, timeoutMs) {
    const url = socketUrl(this.#options.url);
    if (this.#phase === "closed") throw new CallError("closed", "The call is over");
    this.#log("info", "connecting", { url, roomId: this.roomId });
    const socket = new Socket(url, token, {
      ping: { type: "ping", roomId: this.roomId },
      onMessage: (text) => this.#onSocketMessage(text),
      onClosed: (code, reason) => this.#onSocketClosed(socket, code, reason),
    });
    this.#socket = socket;
    try {
      await socket.open(timeoutMs);
    } catch (error) {
      throw error.code === "socket_refused" ? await this.#whyRefused(url, token) : error;
    }
    const data = { receive: "slots" };
    if (this.#options.displayName) data.displayName = this.#options.displayName;
    if (this.#options.metadata !== undefined) data.metadata = this.#options.metadata;
    if (this.#joined?.resumeToken) data.resumeToken = this.#joined.resumeToken;
    // The answer to a join is quick, except in the lobby, where it takes as long as the host takes.
    this.#joinTimer = setTimeout(() => socket.close(CloseCode.ABNORMAL, "no answer to the join"), timeoutMs);
    try {
      return await this.#request("join", data);
    } catch (error) {
      socket.close(CloseCode.ABNORMAL);
      throw error;
    } finally {
      clearTimeout(this.#joinTimer);
    }
  }

  /** The token at hand, or another one from the application where there is none or it is about to expire. */
  async #freshToken() {
    if (this.#options.getToken && (this.#token === null || expiresSoon(this.#token))) this.#token = await this.#askForToken();
    return this.#token;
  }

  async #askForToken() {
    try {
      return await this.#options.getToken();
    } catch (error) {
      if (error instanceof CallError) throw error;
      throw new CallError("token_failed", `getToken failed: ${error?.message ?? error}`, { cause: error });
    }
  }

  /** Renews the token of a running session. The server replaces what one may do by what the token says. */
  setToken(token) {
    this.#token = token;
    if (this.#canSend) this.#send("token", { token });
  }

  async #renewToken() {
    if (!this.#options.getToken) return;
    try {
      const token = await this.#askForToken();
      if (this.#phase !== "closed") this.setToken(token);
    } catch (error) {
      this.#report(error);
    }
  }

  /** Browsers hide why an upgrade was refused, so the same server is asked over HTTP with the same token. */
  async #whyRefused(url, token) {
    const address = new URL(url.replace(/^ws/, "http"));
    address.pathname = address.pathname.replace(
      /\/video-calls\/ws$/,
      `/video-calls/${encodeURIComponent(this.roomId)}/ice-servers`,
    );
    address.search = "";
    let response;
    try {
      response = await fetch(address, {
        headers: { authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(RETRY_ATTEMPT_MS),
      });
    } catch (error) {
      return new CallError("unreachable", "The server cannot be reached", { cause: error });
    }
    const problem = await response.json().catch(() => ({}));
    switch (response.status) {
      case 401:
        return new CallError(problem.code ?? "invalid_token", problem.detail ?? "The token was refused");
      case 403:
        return new CallError(problem.code ?? "forbidden", problem.detail ?? "This token may not enter this call");
      case 429:
        return new CallError("rate_limited", "Too many attempts; try again in a moment");
      case 503:
        return new CallError("server_draining", "The server is about to go away");
      default:
        return new CallError("socket_refused", `The server refused the WebSocket (HTTP says ${response.status})`);
    }
  }

  // Coming back

  #onSocketClosed(socket, code, reason) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    const known = closeReason(code);
    this.#log("info", "socket closed", { code, reason });
    this.#failRequests(new CallError(known, reason));
    // Before one is in, and on the way back, the failed join tells whoever waits for it.
    if (this.#phase !== "in" || !this.#signaling) return;
    this.#signaling = false;
    this.#peer?.suspend();
    if (this.#mayReturn(code)) {
      if (code === CloseCode.TOKEN_EXPIRED) this.#token = null;
      this.#return();
    } else {
      this.#close(code, reason || known, known === "left" ? null : known);
    }
  }

  /** Whoever was sent away stays away. */
  #mayReturn(code) {
    if (this.#options.reconnect === false) return false;
    if (code === CloseCode.TOKEN_EXPIRED) return Boolean(this.#options.getToken);
    return ![CloseCode.LEFT, CloseCode.POLICY, CloseCode.KICKED, CloseCode.CALL_ENDED, CloseCode.REPLACED].includes(code);
  }

  async #return() {
    this.#refresh();
    try {
      await this.#enterAgain();
    } catch (error) {
      const failure = toCallError(error);
      const code = PASSING.has(failure.code) ? "lost" : failure.code;
      this.#close(closeCode(code), failure.message, code);
      return;
    }
    this.#startMedia().catch((error) => this.#report(error));
  }

  /** Enters after the socket was lost: tries until it works, is refused for good, or took too long. */
  async #enterAgain() {
    this.#giveUpAt = performance.now() + (this.#options.reconnectTimeoutMs ?? RECONNECT_TIMEOUT_MS);
    for (let attempt = 0; ; attempt += 1) {
      if (await this.#pause(backoff(attempt, RETRY))) attempt = 0;
      try {
        return await this.#enter(RETRY_ATTEMPT_MS);
      } catch (error) {
        const { code, message } = toCallError(error);
        this.#log("info", "not back yet", { attempt, code, message });
        if (performance.now() >= this.#giveUpAt || !this.#isPassing({ code })) throw error;
      }
    }
  }

  /** Whether the next try may do better. */
  #isPassing({ code }) {
    return this.#phase !== "closed" && this.#options.reconnect !== false && PASSING.has(code);
  }

  /** Waits, unless something happened that makes the next try promising; whether it did. */
  #pause(ms) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#endPause = null;
        resolve(this.#hurried);
        this.#hurried = false;
      };
      const timer = setTimeout(done, this.#hurried ? 0 : ms);
      this.#endPause = done;
    });
  }

  /** The network is back, it seems: no waiting, neither for the next try nor for one that was begun without a network. */
  #hurryUp() {
    if (this.#phase !== "in" || this.#signaling) return;
    this.#hurried = true;
    this.#endPause?.();
    this.#socket?.giveUpOpening();
  }

  /** Listens for all that tells of another network, or of a page that is awake again. */
  #watchNetwork() {
    const onChange = (event) => {
      if (event.type === "visibilitychange" && document.visibilityState !== "visible") return;
      this.#onNetworkChange(event.type);
    };
    const sources = [
      [globalThis, "online"],
      [globalThis.document, "visibilitychange"],
      [globalThis.navigator?.connection, "change"],
    ].filter(([target]) => target?.addEventListener);
    for (const [target, type] of sources) target.addEventListener(type, onChange);
    this.#watch = () => {
      for (const [target, type] of sources) target.removeEventListener(type, onChange);
    };
  }

  #onNetworkChange(why) {
    this.#log("info", "network may have changed", { why });
    if (!this.#signaling) {
      this.#giveUpAt = Math.max(this.#giveUpAt, performance.now() + RECONNECT_GRACE_MS);
      this.#hurryUp();
      return;
    }
    this.#socket?.probe(PROBE_MS);
    const media = this.#peer?.pc.connectionState;
    if (media === "disconnected" || media === "failed") this.#restartMedia(why);
  }

  /** Leaves the call: immediate for everyone else. Local tracks are stopped unless `stopTracks` is `false`. */
  async leave({ stopTracks = true } = {}) {
    if (this.#phase === "closed") return;
    if (stopTracks) {
      for (const publication of this.#publications) publication.track.stop();
    }
    if (this.#canSend) this.#send("leave", undefined);
    this.#close(CloseCode.LEFT, "left", null);
  }

  // Publishing

  /**
   * Opens camera and microphone with the server's wishes as defaults.
   *
   * @param {{audio?: boolean|MediaTrackConstraints, video?: boolean|MediaTrackConstraints}} [constraints]
   */
  async capture(constraints = {}) {
    return capture(constraints, this.encoding);
  }

  /**
   * Sends a stream or tracks. Before `connect()` they go into the first offer; later a new offer is made. Resolves
   * when the server has answered.
   *
   * @param {MediaStream|MediaStreamTrack|MediaStreamTrack[]} media
   * @param {{source?: string, name?: string, videoCodec?: string}} [options] `source` of the video: `camera` or
   *   `screen`; audio beside it is `microphone` or `screen-audio`. `videoCodec` allows only that one, e.g. `"VP9"`.
   */
  async publish(media, options = {}) {
    const added = tracksOf(media).map((track) => this.#register(track, options));
    this.#tellLocal();
    // Before one is in, the first offer takes them along.
    if (this.#joined) {
      try {
        for (const publication of added) this.#attach(publication);
        await this.#peer.negotiated();
      } catch (error) {
        // What the server refused is not offered again with the next change.
        for (const publication of added) await this.#detach(publication);
        this.#tellLocal();
        throw error;
      }
    }
  }

  #register(track, options) {
    for (const existing of this.#publications) {
      if (existing.track === track) throw new CallError("already_published", `Track ${track.id} is sent already`);
    }
    const publication = new Publication(track, {
      source: sourceOf(track, options.source),
      name: options.name ?? track.label ?? "",
      videoCodec: options.videoCodec ?? this.#options.videoCodec ?? null,
      simulcast: options.simulcast ?? this.#options.simulcast ?? true,
      // The server takes redundant packets apart for those who cannot, which it could not do with an encrypted one.
      redundancy: !this.#options.e2ee,
      log: (...line) => this.#log(...line),
    });
    this.#publications.add(publication);
    this.#local.streams.set(publication.source, publication.stream);
    this.#applyEnabled(publication);
    this.#watchTrack(publication);
    return publication;
  }

  /** A camera may be unplugged, and the browser's own bar ends a shared screen. */
  #watchTrack(publication) {
    const { track } = publication;
    track.addEventListener("ended", () => {
      if (!this.#publications.has(publication) || publication.track !== track) return;
      this.#emit("local-track-ended", { track, source: publication.source, kind: track.kind });
      // Without its picture a shared screen is not heard either.
      const ends = publication.source === "screen" ? this.stopScreenShare() : this.unpublish(track);
      ends.catch((error) => this.#report(error));
    });
  }

  /**
   * Stops sending tracks; the tracks themselves go on.
   *
   * @param {MediaStream|MediaStreamTrack|MediaStreamTrack[]|string} media tracks, or the name of a source
   */
  async unpublish(media) {
    await this.#unpublish(
      typeof media === "string"
        ? (publication) => publication.source === media
        : (publication) => tracksOf(media).includes(publication.track),
    );
  }

  async #unpublish(isMeant) {
    let changed = false;
    for (const publication of [...this.#publications].filter(isMeant)) {
      changed = (await this.#detach(publication)) || changed;
    }
    this.#tellLocal();
    if (changed) await this.#peer.negotiated();
  }

  #tellLocal() {
    this.#showViews(this.#local.userId);
    if (this.#joined) this.#emit("participant-updated", { participant: this.#local, userId: this.#local.userId });
  }

  /**
   * Lets the user choose a screen, window or tab, and sends it with its sound where the browser gives one. It ends by
   * {@link Call#stopScreenShare}, or by the browser's own bar (`local-track-ended`).
   *
   * @param {{audio?: boolean|MediaTrackConstraints, video?: boolean|MediaTrackConstraints, name?: string}} [options]
   */
  async shareScreen({ audio = true, video = true, name } = {}) {
    if (!navigator.mediaDevices?.getDisplayMedia) {
      throw new CallError("not_supported", "This browser or page cannot share a screen");
    }
    const sources = this.#local.permissions?.publishSources;
    if (Array.isArray(sources) && !sources.includes("screen")) {
      throw new CallError("forbidden", "Sharing a screen is not allowed here");
    }
    if (this.#local.streams.has("screen")) throw new CallError("already_published", "A screen is shared already");
    const stream = await navigator.mediaDevices
      .getDisplayMedia({
        video: { ...SCREEN_CAPTURE.video, ...(video === true ? {} : video) },
        audio: audio && { ...SCREEN_CAPTURE.audio, ...(audio === true ? {} : audio) },
        // One's own tab would show itself in itself, for ever.
        selfBrowserSurface: "exclude",
        surfaceSwitching: "include",
        systemAudio: audio ? "include" : "exclude",
      })
      .catch((error) => {
        throw toCallError(error);
      });
    try {
      if (this.#phase === "closed") throw new CallError("closed", "The call ended meanwhile");
      if (this.#local.streams.has("screen")) throw new CallError("already_published", "A screen is shared already");
      await this.publish(stream, { source: "screen", name });
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      throw error;
    }
    return stream;
  }

  /** Ends the share, if there is one, and gives the screen back. */
  async stopScreenShare() {
    const isScreen = ({ source }) => source === "screen" || source === "screen-audio";
    for (const publication of this.#publications) if (isScreen(publication)) publication.track.stop();
    await this.#unpublish(isScreen);
  }

  /** Takes a publication off its m-line; whether that has to be negotiated. */
  async #detach(publication) {
    this.#publications.delete(publication);
    if (this.#local.streams.get(publication.source) === publication.stream) {
      this.#local.streams.delete(publication.source);
    }
    const transceiver = publication.transceiver;
    if (!transceiver || this.#phase === "closed") return false;
    // Never stopped: a stopped m-line cannot be used again by the server, an inactive one can.
    transceiver.direction = "inactive";
    await transceiver.sender.replaceTrack(null).catch(() => {});
    return true;
  }

  /** Sends another track of the same kind in the place of one that is sent, without negotiation. */
  async replaceTrack(oldTrack, newTrack) {
    const publication = [...this.#publications].find((candidate) => candidate.track === oldTrack);
    if (!publication) throw new CallError("not_published", "The track to replace is not sent");
    if (oldTrack.kind !== newTrack.kind) throw new CallError("wrong_kind", "Both tracks must be of the same kind");
    await publication.replaceTrack(newTrack);
    this.#watchTrack(publication);
    this.#applyEnabled(publication);
  }

  setMicrophoneMuted(muted) {
    this.#setMuted("audio", muted);
  }

  setCameraMuted(muted) {
    this.#setMuted("video", muted);
  }

  #setMuted(kind, muted) {
    muted = Boolean(muted);
    const before = this.#local.muted[kind];
    if (before === muted) return;
    this.#applyLocalMute(kind, muted);
    if (this.#canSend) this.#sendMute(kind, before);
    else if (this.#joined) this.#muteUnsent.add(kind);
    this.#emit("muted", { userId: this.#local.userId, kind, muted, participant: this.#local });
  }

  /** Tells the server of one's own mute state; if it refuses, `before` holds again. */
  #sendMute(kind, before) {
    this.#muteSentAt[kind] = performance.now();
    this.#send(this.#local.muted[kind] ? "mute" : "unmute", { kind }, {
      onError: (error) => {
        this.#applyLocalMute(kind, before);
        this.#emit("muted", { userId: this.#local.userId, kind, muted: before, participant: this.#local });
        this.#report(error);
      },
    });
  }

  #applyLocalMute(kind, muted) {
    this.#local.muted[kind] = muted;
    for (const publication of this.#publications) this.#applyEnabled(publication);
  }

  /** A shared screen is no camera: hiding one's face leaves it on. */
  #applyEnabled({ track, source }) {
    if (source === "camera") track.enabled = !this.#local.muted.video;
    if (source === "microphone") track.enabled = !this.#local.muted.audio;
  }

  // Messages

  /**
   * Sends a chat line to all, or to one participant.
   *
   * @param {string} text
   * @param {{to?: string}} [options]
   */
  chat(text, { to } = {}) {
    this.#send("chat", { text: String(text) }, { to });
  }

  /**
   * Sends any JSON value of at most 16 KiB to all, or to one participant.
   *
   * @param {any} value
   * @param {{to?: string}} [options]
   */
  sendData(value, { to } = {}) {
    this.#send("data", value, { to });
  }

  /**
   * Sends over a data channel, past the signaling server's limits: JSON values, text and bytes of up to 64 KiB.
   *
   * Reliable messages arrive in order; the promise resolves when the message is on its way, so that whoever waits for it
   * sends no faster than the network takes it. They wait out reconnections. Lossy ones are sent at once or not at all,
   * which the promise tells by `false`.
   *
   * @param {any} data `ArrayBuffer` and views of one travel as bytes and arrive as `Uint8Array`, all else as JSON
   * @param {{to?: string, lossy?: boolean, channel?: string}} [options] `channel`: another label, for messages that
   *   should not wait for others
   * @returns {Promise<boolean>}
   */
  async sendMessage(data, { to, lossy = false, channel = lossy ? LOSSY : RELIABLE } = {}) {
    if (this.#phase === "closed") throw new CallError("not_connected", "The call is over");
    if (this.#options.dataChannels === false) throw new CallError("not_supported", "This call has no data channels");
    if (this.#local.permissions?.data === false) throw new CallError("forbidden", "Sending data is not allowed here");
    const frame = encodeFrame(data, to);
    return this.#channel(channel, lossy).send(frame);
  }

  /** Bytes of messages that wait for the network. */
  get bufferedAmount() {
    const amount = (label) => this.#channels.get(label)?.bufferedAmount ?? 0;
    return { reliable: amount(RELIABLE), lossy: amount(LOSSY) };
  }

  #channel(label, lossy) {
    let channel = this.#channels.get(label);
    if (!channel) {
      channel = new Channel(label, lossy, {
        log: (...line) => this.#log(...line),
        report: (error) => this.#report(error),
        onFrame: (frame) => this.#onFrame(channel, frame),
      });
      this.#channels.set(label, channel);
      if (this.#peer) channel.connect(this.#peer.pc);
    }
    return channel;
  }

  #onFrame(channel, frame) {
    const { from, to = null, data } = decodeFrame(frame);
    this.#emit("message", {
      userId: from,
      data,
      lossy: channel.lossy,
      to,
      channel: channel.label,
      participant: this.#participant(from),
    });
  }

  /** Mutes somebody else; needs the right to moderate. */
  muteParticipant(userId, kind = "audio") {
    this.#send("mute", { kind }, { to: userId });
  }

  /**
   * Says what one wishes to receive of a track or a participant, e.g. `{quality: "low", maxWidth: 320}`. It takes the place
   * of what was said before, and goes before what attached elements need. Wishes outlive reconnections.
   */
  setSubscription(target, wishes = {}) {
    const wish = this.#wish(target);
    wish.own = wishes;
    wish.sent = null;
    this.#sendWish(wish);
    this.#growSlots();
  }

  /**
   * Shows a source of a participant in a media element, whatever slot it comes by, and tells the server how large it is
   * seen, and whether at all; so that small and hidden pictures cost little.
   *
   * @param {HTMLMediaElement} element
   * @param {{userId: string, source?: string, priority?: number, hints?: boolean}} what
   */
  attach(element, what) {
    const view = new View(element, what, {
      onMove: () => this.#showView(view),
      onChange: (userId, source) => this.#rewish(userId, source),
      onDetach: () => this.#views.delete(view),
    });
    this.#views.add(view);
    this.#showView(view);
    return view;
  }

  #showViews(userId) {
    for (const view of this.#views) if (view.userId === userId) this.#showView(view);
  }

  #showView(view) {
    view.stream = this.#participant(view.userId)?.stream(view.source) ?? null;
    this.#rewish(view.userId, view.source);
  }

  /** Makes one wish of what all elements need that show a source. It names the track: one for a user pins the voice too. */
  #rewish(userId, source) {
    const tracks = this.#participants.get(userId)?.tracks.values() ?? [];
    const track = [...tracks].find((candidate) => candidate.source === source);
    if (track?.kind !== "video") return;
    const wish = this.#wish({ trackId: track.trackId });
    const views = [...this.#views].filter((view) => view.userId === userId && view.source === source);
    wish.views = views.map((view) => view.wish).filter((needed) => needed !== null);
    this.#sendWish(wish);
  }

  #wish(target) {
    const key = target.trackId === undefined ? `user ${target.userId}` : `track ${target.trackId}`;
    let wish = this.#wishes.get(key);
    if (!wish) {
      wish = { target, own: null, views: [], sent: null };
      this.#wishes.set(key, wish);
    }
    return wish;
  }

  /** Sends it if it is not what the server knows. */
  #sendWish(wish) {
    if (!this.#canSend || (wish.own === null && wish.views.length === 0 && wish.sent === null)) return;
    const isViewed = wish.views.length > 0 || wish.own === null;
    const data = { ...wish.target, ...(isViewed ? combined(wish.views) : {}), ...wish.own };
    const text = JSON.stringify(data);
    if (text === wish.sent) return;
    wish.sent = text;
    this.#send("subscribe", data);
  }

  /** Asks the server how one's own connection is doing: what it receives and what it sends, by track. */
  async serverStats() {
    return this.#request("stats", { freezes: await this.#freezes() });
  }

  /** The same for the server's statistics, when there is something new. */
  async #tellFreezes() {
    const found = await this.#freezes();
    const text = JSON.stringify(found);
    if (!this.#canSend || found.every(({ count }) => count === 0) || text === this.#freezesTold) return;
    this.#freezesTold = text;
    this.#request("stats", { freezes: found }).catch(() => {});
  }

  /** How often the picture of each line stood still, which nobody but the browser knows. */
  async #freezes() {
    const found = [];
    for (const entry of (await this.getStats()).values()) {
      if (entry.type !== "inbound-rtp" || entry.kind !== "video" || entry.freezeCount === undefined) continue;
      found.push({ mid: entry.mid, count: entry.freezeCount, ms: Math.round((entry.totalFreezesDuration ?? 0) * 1000) });
    }
    return found;
  }

  // Recording

  /** What is recorded of the call: `{recordingId, status}` with the status `recording` or `paused`; `null`: nothing. */
  get recording() {
    return this.#recording;
  }

  /**
   * Has the server record the call; needs the right to. Resolves once it does, after everybody was told.
   *
   * @param {{audioOnly?: boolean, participants?: string[]}} [options] `participants`: only these users
   * @returns {Promise<{recordingId: string}>}
   */
  startRecording({ audioOnly, participants } = {}) {
    return this.#request("start-recording", { audioOnly, participants });
  }

  stopRecording() {
    return this.#request("stop-recording");
  }

  /** What happens until it is resumed is not in the recording. */
  pauseRecording() {
    return this.#request("pause-recording");
  }

  resumeRecording() {
    return this.#request("resume-recording");
  }

  // Signaling

  /** A socket that is closing takes nothing any more, before its end is known. */
  get #canSend() {
    return this.#signaling && this.#socket?.isOpen === true;
  }

  /**
   * @param {string} type
   * @param {any} [data]
   * @param {{to?: string, id?: string, onError?: (error: CallError) => void}} [options]
   */
  #send(type, data, { to, id, onError } = {}) {
    const socket = this.#socket;
    if (!socket?.isOpen) {
      throw new CallError("not_connected", `There is no connection to send "${type}" on`);
    }
    const message = { type, roomId: this.roomId };
    if (to !== undefined) message.targetUserId = to;
    message.id = id ?? `c${this.#nextRequest++}`;
    if (data !== undefined) message.data = data;
    if (!this.#requests.has(message.id)) {
      this.#requests.set(message.id, { type, onError });
      // Most messages have no reply, so only the latest are remembered, for the errors they may get.
      if (this.#requests.size > 256) {
        const oldest = [...this.#requests].find(([, request]) => !request.resolve);
        if (oldest) this.#requests.delete(oldest[0]);
      }
    }
    this.#log("debug", `→ ${type}`, message);
    socket.send(message);
    return message.id;
  }

  /** Sends and waits for the reply that carries the same id. */
  #request(type, data) {
    return new Promise((resolve, reject) => {
      const id = `c${this.#nextRequest++}`;
      this.#requests.set(id, { type, resolve, onError: reject });
      try {
        this.#send(type, data, { id });
      } catch (error) {
        this.#requests.delete(id);
        reject(error);
      }
    });
  }

  #onSocketMessage(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      this.#log("warn", "not JSON from the server", { text: String(text).slice(0, 200) });
      return;
    }
    this.#log("debug", `← ${message.type}`, message);
    try {
      this.#onMessage(message, message.data ?? {});
    } catch (error) {
      this.#log("error", `handling "${message.type}" failed`, { error: String(error?.stack ?? error) });
      this.#report(new CallError("internal", `Handling "${message.type}" failed: ${error}`, { cause: error }));
    }
  }

  #onMessage(message, data) {
    const subject = data.userId ?? message.userId;
    switch (message.type) {
      case "joined": {
        // At once, for what comes next may build on it.
        this.#onJoined(data);
        this.#takeRequest(message.id, "join")?.resolve?.(data);
        break;
      }
      case "waiting":
        clearTimeout(this.#joinTimer);
        if (this.#phase === "connecting") this.#phase = "waiting";
        this.#refresh();
        this.#emit("waiting", data);
        break;
      case "answer":
        if (isServer(message)) this.#peer?.onAnswer(message.id, data.sdp);
        break;
      case "offer":
        if (isServer(message)) this.#peer?.onOffer(message.id, data.sdp);
        break;
      case "ice-candidate":
        if (isServer(message)) this.#peer?.onCandidate(data.candidate);
        break;
      case "user-joined":
        this.#onUserJoined({ ...data, userId: subject });
        break;
      case "user-left":
        this.#onUserLeft(subject, data.reason ?? null);
        break;
      case "user-updated":
        this.#onUserUpdated({ ...data, userId: subject });
        break;
      case "track-published":
        this.#onTrackPublished(subject, data);
        break;
      case "track-unpublished":
        this.#onTrackUnpublished(subject, data.trackId);
        break;
      case "track-subscribed":
        this.#onTrackSubscribed(data);
        break;
      case "muted":
      case "unmuted":
        this.#onMuted(subject, data, message.type === "muted", message);
        break;
      case "active-speaker":
        this.#onActiveSpeaker(data);
        break;
      case "layers-wanted":
        this.#onLayersWanted(data);
        break;
      case "chat":
        this.#emit("chat", {
          ...data,
          userId: message.userId,
          text: String(data.text ?? ""),
          to: message.targetUserId ?? null,
          participant: this.#participant(message.userId),
        });
        break;
      case "data":
        // By way of the signaling socket.
        this.#emit("data", {
          userId: message.userId,
          value: message.data,
          to: message.targetUserId ?? null,
          participant: this.#participant(message.userId),
        });
        break;
      case "error":
        this.#onError(message.id, data);
        break;
      case "pong":
        this.#requests.delete(message.id);
        break;
      case "kicked":
        this.#emit("kicked", data);
        break;
      case "quality":
        this.#onQuality(subject, data);
        break;
      case "layer-changed":
        this.#onLayerChanged(data);
        break;
      case "stats":
        this.#takeRequest(message.id, "stats")?.resolve?.(data);
        break;
      case "room-closed":
      case "server-draining":
      case "quality-warning":
      case "room-updated":
      case "recording-completed":
        this.#emit(message.type, data);
        break;
      case "recording-started":
      case "recording-paused":
      case "recording-resumed":
      case "recording-stopped": {
        this.#recording = message.type === "recording-stopped" ? null : { recordingId: data.recordingId, status: data.status };
        const word = { started: "start", paused: "pause", resumed: "resume", stopped: "stop" }[message.type.slice(10)];
        this.#emit(message.type, data);
        this.#takeRequest(message.id, `${word}-recording`)?.resolve?.(data);
        break;
      }
      case "token-expiring":
        this.#emit("token-expiring", data);
        this.#renewToken();
        break;
      default:
        this.#log("info", `message of unknown type "${message.type}"`, message);
    }
  }

  #takeRequest(id, type) {
    if (id !== undefined && id !== null && this.#requests.has(id)) {
      const request = this.#requests.get(id);
      this.#requests.delete(id);
      return request;
    }
    // A server need not echo the id of a join: there is only one.
    for (const [key, request] of this.#requests) {
      if (request.type === type && request.resolve) {
        this.#requests.delete(key);
        return request;
      }
    }
    return null;
  }

  #onError(id, data) {
    const request = id === undefined ? undefined : this.#requests.get(id);
    this.#requests.delete(id);
    const error = new CallError(data.code ?? "unknown", data.message, { request: request?.type });
    this.#log("warn", "the server refused", { code: error.code, message: error.message, request: error.request });
    if (this.#peer?.onRefused(id, error)) {
      // An offer: looked after there.
    } else if (request?.onError) {
      request.onError(error);
    } else {
      this.#report(error);
    }
  }

  #failRequests(error) {
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const request of requests) if (request.resolve) request.onError(error);
  }

  #close(code, reason, errorCode) {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    this.#signaling = false;
    clearTimeout(this.#mediaTimer);
    this.#watch?.();
    this.#endPause?.();
    const failure = new CallError(errorCode ?? "closed", reason);
    this.#failRequests(failure);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(CloseCode.LEFT);
    for (const channel of this.#channels.values()) channel.close(failure);
    for (const waiter of this.#peer?.close() ?? []) waiter.reject(failure);
    for (const slot of this.#slots.values()) this.#empty(slot);
    for (const view of [...this.#views]) view.detach();
    this.#refresh();
    this.#emit("closed", { code, reason, error: errorCode });
  }

  // Who is there

  /** The first time, or after a return: then only what really changed is told. */
  /** What was said about the recording while the socket was lost. */
  #agreeOnRecording(recording, again) {
    const before = this.#recording;
    this.#recording = recording;
    if (!again || before?.recordingId === recording?.recordingId) return;
    if (before) this.#emit("recording-stopped", { recordingId: before.recordingId, reason: null });
    if (recording) this.#emit("recording-started", { ...recording, by: null });
  }

  #onJoined(data) {
    const again = this.#joined !== null;
    this.#joined = data;
    this.#signaling = true;
    this.#phase = "in";
    if (this.#outage) this.#outage.resumed = data.resumed === true;
    const you = data.you ?? {};
    this.#local.userId = you.userId ?? this.#local.userId;
    this.#local.role = you.role ?? this.#local.role;
    this.#local.displayName = you.displayName || this.#local.displayName || this.#local.userId;
    this.#local.permissions = you.permissions ?? null;

    const present = (data.participants ?? []).filter(({ userId }) => userId !== this.#local.userId);
    this.#agreeOnRecording(data.recording ?? null, again);
    if (again) {
      this.#diffParticipants(present);
    } else {
      for (const info of present) this.#addParticipant(info);
      this.#refresh();
      this.#emit("joined", data);
      for (const participant of this.#participants.values()) {
        this.#emit("participant-joined", { participant, userId: participant.userId, present: true });
      }
    }
    this.#agreeOnMute(mutedOf(you.muted, { audio: false, video: false }));
    for (const wish of this.#wishes.values()) {
      if (data.resumed !== true) wish.sent = null;
      this.#sendWish(wish);
    }
    for (const view of this.#views) this.#showView(view);
  }

  /** Whoever muted before joining, or while away, stays muted; so does whom somebody else muted meanwhile. */
  #agreeOnMute(server) {
    for (const kind of ["audio", "video"]) {
      const own = this.#local.muted[kind];
      if (own === server[kind]) continue;
      if (own || this.#muteUnsent.has(kind)) {
        this.#sendMute(kind, server[kind]);
      } else {
        this.#applyLocalMute(kind, true);
        this.#emit("muted", { userId: this.#local.userId, kind, muted: true, by: null, participant: this.#local });
      }
    }
    this.#muteUnsent.clear();
  }

  #diffParticipants(present) {
    const still = new Set(present.map(({ userId }) => userId));
    for (const userId of [...this.#participants.keys()]) {
      if (!still.has(userId)) this.#onUserLeft(userId, null);
    }
    for (const info of present) {
      const known = this.#participants.get(info.userId);
      if (!known) {
        this.#onUserJoined(info);
        continue;
      }
      const before = description(known);
      const tracks = new Set((info.tracks ?? []).map(({ trackId }) => trackId));
      for (const trackId of [...known.tracks.keys()]) {
        if (!tracks.has(trackId)) this.#dropTrack(known, trackId);
      }
      this.#addParticipant({ connection: "ok", ...info });
      if (description(known) !== before) {
        this.#emit("participant-updated", { participant: known, userId: known.userId });
      }
    }
  }

  #participant(userId) {
    return userId === this.#local.userId ? this.#local : (this.#participants.get(userId) ?? null);
  }

  #addParticipant(info) {
    const participant = this.#participants.get(info.userId) ?? new Participant(info.userId);
    this.#update(participant, info);
    this.#participants.set(info.userId, participant);
    for (const track of info.tracks ?? []) this.#addTrack(participant, track);
    return participant;
  }

  #update(participant, info) {
    if (typeof info.displayName === "string" && info.displayName) participant.displayName = info.displayName;
    if (typeof info.role === "string") participant.role = info.role;
    if (info.metadata !== undefined) participant.metadata = info.metadata;
    if (typeof info.connection === "string") participant.connection = info.connection;
    if (info.muted !== undefined) participant.muted = mutedOf(info.muted, participant.muted);
  }

  #addTrack(participant, { trackId, kind, source, layers }) {
    if (!trackId) return;
    const known = participant.tracks.get(trackId);
    if (known) {
      if (source) known.source = source;
      if (layers) known.layers = layers;
      return;
    }
    participant.tracks.set(trackId, {
      trackId,
      kind,
      source: source ?? (kind === "audio" ? "microphone" : "camera"),
      layers: layers ?? [],
      track: null,
      mid: null,
      layer: null,
      paused: false,
      pausedReason: null,
    });
  }

  #onUserJoined(info) {
    if (info.userId === this.#local.userId) return;
    const again = this.#participants.has(info.userId);
    const participant = this.#addParticipant(info);
    this.#showViews(info.userId);
    this.#emit(again ? "participant-updated" : "participant-joined", { participant, userId: info.userId, present: false });
    this.#growSlots();
  }

  #onUserLeft(userId, reason) {
    const participant = this.#participants.get(userId);
    if (!participant) return;
    for (const slot of this.#slots.values()) {
      if (slot.userId === userId) this.#empty(slot);
    }
    this.#participants.delete(userId);
    this.#wishes.delete(`user ${userId}`);
    for (const trackId of participant.tracks.keys()) this.#wishes.delete(`track ${trackId}`);
    this.#emit("participant-left", { participant, userId, reason });
  }

  #onUserUpdated(info) {
    const participant = this.#participant(info.userId);
    if (!participant) return;
    const { connection } = participant;
    this.#update(participant, info);
    if (participant.local && info.permissions) this.#local.permissions = info.permissions;
    this.#emit("participant-updated", { participant, userId: info.userId });
    if (participant.connection !== connection) {
      this.#emit("participant-connection", { participant, userId: info.userId, connection: participant.connection });
    }
  }

  #onTrackPublished(userId, data) {
    const participant = this.#participants.get(userId);
    if (!participant) return;
    this.#addTrack(participant, data.track ?? data);
    this.#showViews(userId);
    this.#emit("participant-updated", { participant, userId });
    this.#growSlots();
  }

  #onTrackUnpublished(userId, trackId) {
    const participant = this.#participants.get(userId);
    if (!participant) return;
    this.#dropTrack(participant, trackId);
    this.#emit("participant-updated", { participant, userId });
  }

  #dropTrack(participant, trackId) {
    for (const slot of this.#slots.values()) {
      if (slot.trackId === trackId && slot.userId === participant.userId) this.#empty(slot);
    }
    participant.tracks.delete(trackId);
    this.#wishes.delete(`track ${trackId}`);
  }

  #onMuted(userId, data, muted, message) {
    const kind = data.kind === "video" ? "video" : "audio";
    const target = data.userId ?? message.targetUserId ?? userId;
    const participant = this.#participant(target);
    if (!participant) return;
    const by = data.by ?? (message.userId !== target ? message.userId : null);
    if (participant.local) {
      const echo = (by === null || by === target) && performance.now() - this.#muteSentAt[kind] < MUTE_ECHO_MS;
      if (participant.muted[kind] === muted || echo) return;
      // Others may silence us; nobody but the user opens the microphone or the camera again.
      if (!muted) {
        this.#emit("unmute-allowed", { kind, by });
        return;
      }
      this.#applyLocalMute(kind, true);
    } else {
      participant.muted[kind] = muted;
    }
    this.#emit("muted", { userId: target, kind, muted, by, participant });
  }

  #onActiveSpeaker(data) {
    const list = Array.isArray(data) ? data : (data.speakers ?? (data.userId ? [data] : []));
    const speakers = list.map((entry) => (typeof entry === "string" ? { userId: entry, level: null } : entry));
    this.#local.level = 0;
    for (const participant of this.#participants.values()) participant.level = 0;
    for (const { userId, level } of speakers) {
      const participant = this.#participant(userId);
      if (participant) participant.level = level ?? 1;
    }
    this.#emit("active-speaker", { speakers });
  }

  #onQuality(userId, { quality, reason = null }) {
    const participant = this.#participant(userId);
    if (!participant) return;
    participant.quality = quality;
    participant.qualityReason = reason;
    this.#emit("quality", { participant, userId, quality, reason });
  }

  #onLayerChanged({ mid, trackId, userId, layer = null, paused = false, reason = null }) {
    const participant = this.#participants.get(userId);
    const info = participant?.tracks.get(trackId);
    if (!info) return;
    info.layer = layer;
    info.paused = paused;
    info.pausedReason = paused ? reason : null;
    this.#emit("layer-changed", { participant, userId, trackId, mid, source: info.source, layer, paused, reason });
  }

  // Receiving

  /**
   * The server says what a slot carries. Emptied slots keep their transceiver: the same m-line, SSRC and
   * `MediaStreamTrack` serve the next one.
   */
  #onTrackSubscribed(data) {
    const mid = String(data.mid);
    const transceiver = this.#peer?.pc.getTransceivers().find((candidate) => candidate.mid === mid);
    if (!transceiver) {
      this.#log("warn", "track-subscribed for an unknown mid", data);
      return;
    }
    let slot = this.#slots.get(mid);
    if (!slot) {
      slot = { mid, kind: transceiver.receiver.track.kind, transceiver, userId: null, trackId: null, source: null };
      this.#slots.set(mid, slot);
    }
    if (slot.trackId !== null && slot.trackId === data.trackId && slot.userId === data.userId) return;
    this.#empty(slot);
    if (data.trackId === null || data.trackId === undefined) return;

    const participant = this.#participants.get(data.userId) ?? this.#addParticipant({ userId: data.userId });
    this.#addTrack(participant, { ...data, kind: slot.kind });
    const info = participant.tracks.get(data.trackId);
    const track = transceiver.receiver.track;
    // The same track may have moved here from another slot whose emptying comes later.
    for (const other of this.#slots.values()) {
      if (other !== slot && other.trackId === data.trackId && other.userId === data.userId) this.#empty(other);
    }
    slot.userId = data.userId;
    slot.trackId = data.trackId;
    slot.source = info.source;
    info.track = track;
    info.mid = mid;
    const stream = new MediaStream([track]);
    participant.streams.set(info.source, stream);
    this.#showViews(data.userId);
    this.#emit("track-subscribed", {
      participant,
      userId: data.userId,
      trackId: data.trackId,
      kind: slot.kind,
      source: info.source,
      mid,
      track,
      stream,
    });
  }

  #empty(slot) {
    if (slot.trackId === null) return;
    const { userId, trackId, source, kind, mid, transceiver } = slot;
    slot.userId = slot.trackId = slot.source = null;
    const participant = this.#participants.get(userId) ?? null;
    const info = participant?.tracks.get(trackId);
    if (info && info.mid === mid) {
      Object.assign(info, { track: null, mid: null, layer: null, paused: false, pausedReason: null });
      participant.streams.delete(source);
    }
    this.#showViews(userId);
    this.#emit("track-unsubscribed", { participant, userId, trackId, kind, source, mid, track: transceiver.receiver.track });
  }

  /**
   * The slots are as many as were asked for at first, and the server fills them with those who matter most. Whom one pins
   * is heard beside the loudest, and needs a slot for it.
   */
  #growSlots() {
    if (!this.#peer) return;
    const voices = new Set();
    for (const participant of this.#participants.values()) {
      for (const { kind, trackId } of participant.tracks.values()) if (kind === "audio") voices.add(trackId);
    }
    const isPinned = ({ target, own }) => own && !own.paused && (target.trackId === undefined || voices.has(target.trackId));
    const pinned = [...this.#wishes.values()].filter(isPinned).length;
    const base = this.#options.slots?.audio ?? INITIAL_SLOTS.audio;
    const target = Math.min(voices.size, base + pinned, MAX_SLOTS.audio);
    if (this.#slotCount.audio >= target) return;
    while (this.#slotCount.audio < target) this.#addSlot("audio");
    this.#log("info", "more slots", { ...this.#slotCount });
    this.#peer.request();
  }

  #addSlot(kind) {
    const transceiver = this.#peer.pc.addTransceiver(kind, { direction: "recvonly" });
    this.#setCodecs(transceiver, callCodecs(RTCRtpReceiver, kind));
    if (kind === "video") this.#askForDependencies(transceiver);
    this.#decrypt(transceiver);
    this.#slotCount[kind] += 1;
  }

  /**
   * Chromium decodes AV1 with layers left out only by the dependency descriptor, which it does not ask for by itself where
   * it only receives.
   */
  #askForDependencies(transceiver) {
    try {
      const extensions = transceiver.getHeaderExtensionsToNegotiate?.();
      const descriptor = extensions?.find(({ uri }) => uri === DEPENDENCY_DESCRIPTOR);
      if (descriptor?.direction !== "stopped") return;
      descriptor.direction = "sendrecv";
      transceiver.setHeaderExtensionsToNegotiate(extensions);
    } catch (error) {
      this.#log("info", "dependency descriptor not asked for", { error: String(error) });
    }
  }

  // Sending

  /** A connection with its receive slots. What is sent, and the servers to use, are known once joined. */
  #buildPeer() {
    const { iceServers = this.#joined?.iceServers ?? [], iceTransportPolicy = "all", slots = {} } = this.#options;
    const configuration = { iceServers, iceTransportPolicy, bundlePolicy: "max-bundle", rtcpMuxPolicy: "require" };
    if (this.#options.e2ee?.encodedInsertableStreams) configuration.encodedInsertableStreams = true;
    const peer = new Peer(configuration, {
      log: (...line) => this.#log(...line),
      nextId: () => `o${this.#nextRequest++}`,
      send: (type, data, options) => this.#send(type, data, options),
      describe: () => this.#describeTracks(),
      onAnswered: () => this.#onAnswered(),
      onState: (state) => this.#onMediaState(state),
      onStale: (why) => this.#onStalePeer(why),
      onInterval: () => this.#tellFreezes(),
      report: (error) => this.#report(error),
    });
    this.#peer = peer;
    this.#slotCount = { audio: 0, video: 0 };
    if (this.#options.dataChannels !== false) {
      this.#channel(RELIABLE, false);
      this.#channel(LOSSY, true);
      for (const channel of this.#channels.values()) channel.connect(peer.pc);
      peer.pc.ondatachannel = ({ channel }) => this.#channel(channel.label, channel.maxRetransmits === 0).adopt(channel);
    }
    for (const kind of ["audio", "video"]) {
      const count = Math.min(slots[kind] ?? INITIAL_SLOTS[kind], MAX_SLOTS[kind]);
      for (let n = 0; n < count; n += 1) this.#addSlot(kind);
    }
  }

  /** Offers what there is to send and to receive; after a return on the connection that the server kept, if it did. */
  async #startMedia() {
    const { resumed, media, iceServers = [] } = this.#joined;
    const { pc, isUsed } = this.#peer;
    const kept = resumed === true && media === true && !isBroken(pc);
    if (isUsed && !kept) {
      this.#rebuildPeer();
      this.#refresh();
      return;
    }
    this.#peer.setIceServers(this.#options.iceServers ?? iceServers);
    if (isUsed) {
      this.#log("info", "back with the same media connection", { media: pc.connectionState });
      if (pc.connectionState !== "connected") this.#restartMedia("back");
      this.#peer.resume();
      this.#refresh();
    } else {
      this.#attachAll();
      this.#peer.resume();
      await this.#peer.negotiated();
    }
  }

  /** The server has no such media connection any more. */
  #onStalePeer(why) {
    this.#log("info", "the server lost the media connection", { why });
    if (this.#signaling) this.#rebuildPeer();
    this.#refresh();
  }

  /** The same publications and as many slots on a fresh connection; nobody has to be asked. */
  #rebuildPeer() {
    this.#log("info", "a new media connection");
    if (this.#media === "up") this.#media = "down";
    for (const slot of this.#slots.values()) this.#empty(slot);
    this.#slots.clear();
    const waiters = this.#peer.close();
    for (const publication of this.#publications) publication.release();
    this.#buildPeer();
    this.#attachAll();
    this.#peer.adopt(waiters);
    this.#peer.resume();
    this.#peer.request();
    this.#restarts = Math.max(1, this.#restarts);
    this.#awaitMedia();
  }

  #attachAll() {
    const permitted = this.#local.permissions?.publish !== false && this.#local.role !== "viewer";
    for (const publication of this.#publications) {
      if (permitted) {
        if (!publication.transceiver) this.#attachOrReport(publication);
      } else {
        this.#publications.delete(publication);
      }
    }
  }

  #attachOrReport(publication) {
    try {
      this.#attach(publication);
    } catch (error) {
      this.#report(error);
    }
  }

  #describeTracks() {
    const tracks = [];
    for (const { transceiver, source, name } of this.#publications) {
      if (transceiver?.mid) tracks.push(name ? { mid: transceiver.mid, source, name } : { mid: transceiver.mid, source });
    }
    return tracks;
  }

  /** Browsers differ in what of `sendEncodings` outlives a negotiation. */
  #onAnswered() {
    for (const publication of this.#publications) publication.settle();
  }

  /** Somebody watches these encodings, nobody those: what nobody watches is not sent. */
  #onLayersWanted({ mid, encodings }) {
    for (const publication of this.#publications) {
      if (publication.transceiver && publication.transceiver.mid === String(mid)) publication.setWanted(encodings ?? []);
    }
  }

  /** Gives a publication an m-line: an inactive one that was ours before and sends in the same way, else a new one. */
  #attach(publication) {
    const { pc } = this.#peer;
    const busy = new Set([...this.#publications].map((other) => other.transceiver));
    const idle = pc.getTransceivers().filter(
      (transceiver) =>
        transceiver.direction === "inactive" &&
        transceiver.currentDirection !== "stopped" &&
        transceiver.receiver.track.kind === publication.track.kind &&
        !transceiver.sender.track &&
        !busy.has(transceiver),
    );
    publication.plan(this.encoding);
    const transceiver = publication.attach(pc, idle);
    if (!idle.includes(transceiver)) {
      try {
        this.#encrypt(transceiver);
      } catch (error) {
        // Rather nothing than something in the clear.
        transceiver.direction = "inactive";
        transceiver.sender.replaceTrack(null).catch(() => {});
        this.#publications.delete(publication);
        throw new CallError("e2ee_failed", `The transform of a sender failed: ${error?.message ?? error}`, { cause: error });
      }
    }
    this.#setCodecs(transceiver, publication.codecs());
    publication.settle();
  }

  /** Lets the application put its transform between encoder and network. */
  #encrypt(transceiver) {
    const { sender } = transceiver;
    const publication = () => [...this.#publications].find((candidate) => candidate.transceiver === transceiver);
    this.#options.e2ee?.sender?.(sender, {
      kind: transceiver.receiver.track.kind,
      get mid() {
        return transceiver.mid;
      },
      get source() {
        return publication()?.source ?? null;
      },
    });
  }

  /** The same between network and decoder; a slot's m-line serves one participant after another. */
  #decrypt(transceiver) {
    const { receiver } = transceiver;
    const slot = () => [...this.#slots.values()].find((candidate) => candidate.transceiver === transceiver);
    try {
      this.#options.e2ee?.receiver?.(receiver, {
        kind: receiver.track.kind,
        get mid() {
          return transceiver.mid;
        },
        get userId() {
          return slot()?.userId ?? null;
        },
        get trackId() {
          return slot()?.trackId ?? null;
        },
        get source() {
          return slot()?.source ?? null;
        },
      });
    } catch (error) {
      this.#report(new CallError("e2ee_failed", `The transform of a receiver failed: ${error?.message ?? error}`, { cause: error }));
    }
  }

  #setCodecs(transceiver, codecs) {
    if (codecs.length === 0) return;
    try {
      transceiver.setCodecPreferences?.(codecs);
    } catch (error) {
      this.#log("info", "codec preference not applied", { error: String(error) });
    }
  }

  #onMediaState(state) {
    this.#log("info", `media ${state}`, { ice: this.#peer.pc.iceConnectionState });
    clearTimeout(this.#mediaTimer);
    if (state === "connected") {
      this.#media = "up";
      this.#restarts = 0;
      this.#hurryUp();
    } else if (state === "disconnected") {
      // What cut media off may have cut the socket off as well.
      this.#socket?.probe(PROBE_MS);
      this.#mediaTimer = setTimeout(() => this.#restartMedia(state), DISCONNECTED_MS);
    } else if (state === "failed") {
      if (this.#media === "none" && this.#restarts === 0) {
        this.#report(new CallError("media_failed", "No media connection to the server could be made"));
      }
      this.#restartMedia(state);
    } else if (this.#restarts > 0) {
      this.#awaitMedia();
    }
    if (!this.#refresh()) this.#emitState();
  }

  #awaitMedia() {
    clearTimeout(this.#mediaTimer);
    this.#mediaTimer = setTimeout(() => this.#restartMedia("in vain"), backoff(this.#restarts, RESTART));
  }

  /** Asks for new paths to the server, and again until there is one. */
  #restartMedia(why) {
    clearTimeout(this.#mediaTimer);
    if (this.#phase !== "in") return;
    if (this.#media === "up") this.#media = "down";
    this.#refresh();
    // Without signaling there is nothing to do yet; whoever comes back looks after media.
    if (!this.#signaling) return;
    this.#restarts += 1;
    const { pc } = this.#peer;
    this.#log("info", "media restarts", { why, times: this.#restarts, state: pc.connectionState });
    if (isBroken(pc) || this.#restarts % RESTARTS_UNTIL_REBUILD === 0) {
      this.#rebuildPeer();
    } else {
      this.#peer.request({ iceRestart: true });
      this.#awaitMedia();
    }
  }

  // Telling

  /** Makes the state out of what is known, and tells when it is another one; whether it is. */
  #refresh() {
    let state = this.#phase;
    if (state === "in") {
      if (!this.#signaling || this.#media === "down") state = "reconnecting";
      else state = this.#media === "up" ? "connected" : "joined";
    }
    const before = this.#state;
    if (state === before) return false;
    this.#state = state;
    this.#log("info", `state ${state}`);
    if (state === "reconnecting") this.#outage = { at: performance.now(), resumed: true };
    const outage = before === "reconnecting" ? this.#outage : null;
    if (outage) this.#outage = null;
    this.#emitState();
    if (state === "reconnecting") {
      this.#emit("reconnecting", { signaling: !this.#signaling, media: this.#media === "down" });
    } else if (outage && state !== "closed") {
      this.#emit("reconnected", { resumed: outage.resumed, lostForMs: Math.round(performance.now() - outage.at) });
    }
    return true;
  }

  #emitState() {
    this.#emit("connection-state", {
      state: this.#state,
      signaling: this.#socket?.state ?? (this.#phase === "new" ? "new" : "closed"),
      media: this.#peer?.pc.connectionState ?? "new",
    });
  }

  #report(error) {
    const failure = toCallError(error);
    if (this.#phase === "closed") return;
    this.#emit("error", { code: failure.code, message: failure.message, request: failure.request, error: failure });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** One WebSocket to the server, with the pings that show whether it still lives. */
class Socket {
  #socket = null;
  #url;
  #token;
  #hooks;
  #interval = null;
  #silence = null;
  #silentAt = Infinity;
  #ended = false;
  #openingAt = 0;
  #onEndedEarly = null;

  /**
   * @param {string} url
   * @param {string} token
   * @param {{ping: object, onMessage: (text: string) => void, onClosed: (code: number, reason: string) => void}} hooks
   */
  constructor(url, token, hooks) {
    this.#url = url;
    this.#token = token;
    this.#hooks = hooks;
  }

  get isOpen() {
    return !this.#ended && this.#socket?.readyState === WebSocket.OPEN;
  }

  get state() {
    return ["connecting", "open", "closing", "closed"][this.#socket?.readyState] ?? "new";
  }

  /** Rejects with `bad_url`, `timeout` or `socket_refused`. */
  open(timeoutMs) {
    return new Promise((resolve, reject) => {
      let socket;
      try {
        socket = new WebSocket(this.#url, [PROTOCOL, `bearer.${this.#token}`]);
      } catch (error) {
        reject(new CallError("bad_url", `The address ${this.#url} or the token cannot be used`, { cause: error }));
        return;
      }
      this.#socket = socket;
      this.#openingAt = performance.now();
      const timer = setTimeout(() => {
        reject(new CallError("timeout", "The server did not answer in time"));
        this.close(CloseCode.ABNORMAL);
      }, timeoutMs);
      this.#onEndedEarly = (error) => {
        clearTimeout(timer);
        reject(error);
      };
      socket.onopen = () => {
        clearTimeout(timer);
        this.#onEndedEarly = null;
        this.#interval = setInterval(() => this.probe(SILENCE_MS), PING_INTERVAL_MS);
        resolve();
      };
      socket.onmessage = ({ data }) => {
        this.#heard();
        this.#hooks.onMessage(data);
      };
      socket.onclose = ({ code, reason }) => {
        this.#onEndedEarly?.(new CallError("socket_refused", "The server refused the WebSocket"));
        this.#end(code, reason);
      };
    });
  }

  /** A handshake that began without a network waits long for its next packet; another one is quicker. */
  giveUpOpening() {
    if (this.#onEndedEarly === null || performance.now() - this.#openingAt < STALE_OPENING_MS) return;
    this.close(CloseCode.ABNORMAL, "begun without a network");
  }

  send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  /** Asks for a sign of life; without one in time the socket is taken for dead. */
  probe(ms) {
    if (!this.isOpen) return;
    const at = performance.now() + ms;
    if (at >= this.#silentAt) return;
    this.send(this.#hooks.ping);
    this.#silentAt = at;
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      const late = performance.now() - at;
      this.#silentAt = Infinity;
      if (late > PROBE_MS) {
        // The page slept: what the server said meanwhile may not have been handed out yet.
        this.probe(PROBE_MS);
      } else {
        this.close(CloseCode.ABNORMAL, "nothing heard from the server");
      }
    }, ms);
  }

  #heard() {
    clearTimeout(this.#silence);
    this.#silentAt = Infinity;
  }

  /**
   * Ends it from here, without waiting for a network that may be gone. The server takes `LEFT` for a leave, even if it hears
   * of it much later; anything else for somebody who will be back.
   */
  close(code, reason = "") {
    this.#end(code, reason);
  }

  #end(code, reason) {
    if (this.#ended) return;
    this.#ended = true;
    this.#onEndedEarly?.(new CallError("lost", reason));
    clearInterval(this.#interval);
    clearTimeout(this.#silence);
    const socket = this.#socket;
    if (socket) {
      socket.onmessage = socket.onopen = socket.onclose = null;
      if (socket.readyState <= WebSocket.OPEN) socket.close(code === CloseCode.LEFT ? code : BACK_SOON);
    }
    this.#hooks.onClosed(code, reason);
  }
}

/** A track that is sent: how it is encoded, and the transceiver that sends it. */
class Publication {
  /** @type {MediaStreamTrack} */
  track;
  source;
  name;
  stream;
  /** @type {RTCRtpTransceiver|null} */
  transceiver = null;
  #videoCodec;
  #simulcast;
  #redundancy;
  #log;
  /** The codec that is to be sent, as far as known. */
  #codec = "";
  /** @type {RTCRtpEncodingParameters[]} */
  #encodings = [];
  /** @type {string|null} */
  #degradation = null;
  /** Encodings that nobody watches, by rid; `null` for the only one. */
  #unwanted = new Set();
  #settling = false;
  #unsettled = false;

  /** How the transceivers of this page send: those are alike that have the same encodings. */
  static #shapes = new WeakMap();

  constructor(track, { source, name, videoCodec, simulcast, redundancy, log }) {
    this.track = track;
    this.source = source;
    this.name = name;
    this.stream = new MediaStream([track]);
    this.#videoCodec = videoCodec;
    this.#simulcast = simulcast;
    this.#redundancy = redundancy;
    this.#log = log;
  }

  /**
   * Decides how to encode, by the server's wishes and the size of the capture.
   *
   * @param {import("./client.d.ts").Encoding|null} encoding
   */
  plan(encoding) {
    const { kind } = this.track;
    this.#codec = kind === "video" ? this.#firstCodec(encoding?.video?.codec) : "opus";
    if (kind === "audio") {
      this.#encodings = [capped({}, encoding?.audio?.bitrate)];
      return;
    }
    const screen = this.source === "screen";
    // A screen is to be read: it loses frames before it loses sharpness.
    this.#degradation = screen ? "maintain-resolution" : "balanced";
    this.#hint();
    const bitrate = encoding?.video?.bitrate?.max;
    if (screen) {
      const only = { maxFramerate: SCREEN_FRAMERATE, scalabilityMode: "L1T3", priority: "high", networkPriority: "high" };
      this.#encodings = [capped(only, bitrate)];
    } else {
      const { width = encoding?.video?.width ?? 1280, height = 0 } = this.track.getSettings?.() ?? {};
      this.#encodings = cameraEncodings(Math.max(width, height), bitrate, this.#codec, this.#simulcast);
    }
  }

  /** The one asked for, else the server's first choice that this browser can send. */
  #firstCodec(wanted) {
    const codecs = callCodecs(RTCRtpSender, "video").filter((codec) => !isHelper(codec));
    for (const name of [this.#videoCodec, wanted]) {
      if (name && codecs.some(isCodec(name))) return name.toLowerCase();
    }
    if (this.#videoCodec) this.#log("warn", `this browser cannot send ${this.#videoCodec}`);
    return codecs[0]?.mimeType.replace(/^video\//i, "").toLowerCase() ?? "";
  }

  #hint() {
    if (this.track.contentHint === "") this.track.contentHint = this.source === "screen" ? "detail" : "motion";
  }

  /** In the order of preference. */
  codecs() {
    const codecs = callCodecs(RTCRtpSender, this.track.kind);
    if (this.track.kind === "audio") {
      if (!this.#redundancy) return codecs.filter(isCodec("opus"));
      // RFC 2198: every packet repeats the one before, so that single losses are not heard.
      return [...codecs.filter(isCodec("red")), ...codecs.filter((codec) => !isCodec("red")(codec))];
    }
    const isFirst = isCodec(this.#codec);
    const only = this.#videoCodec?.toLowerCase() === this.#codec;
    return [...codecs.filter(isFirst), ...codecs.filter((codec) => !isFirst(codec) && (!only || isHelper(codec)))];
  }

  /** Takes an idle transceiver that sends in the same way, else makes one. */
  attach(pc, idle) {
    const shape = JSON.stringify(this.#encodings.map(({ rid, scalabilityMode }) => [rid, scalabilityMode]));
    this.#unwanted.clear();
    const reused = idle.find((transceiver) => Publication.#shapes.get(transceiver) === shape);
    if (reused) {
      reused.direction = "sendonly";
      reused.sender.setStreams?.(this.stream);
      reused.sender.replaceTrack(this.track).catch((error) => this.#log("warn", "track not sent", { error: String(error) }));
      this.transceiver = reused;
    } else {
      this.transceiver = this.#addTransceiver(pc);
      Publication.#shapes.set(this.transceiver, shape);
    }
    return this.transceiver;
  }

  /** Browsers that know no scalability modes, or not this one, send without. */
  #addTransceiver(pc) {
    const init = { direction: "sendonly", streams: [this.stream] };
    try {
      return pc.addTransceiver(this.track, { ...init, sendEncodings: this.#encodings });
    } catch (error) {
      this.#log("info", "encodings refused, now without scalability", { error: String(error) });
      this.#encodings = this.#encodings.map(({ scalabilityMode, ...encoding }) => encoding);
      return pc.addTransceiver(this.track, { ...init, sendEncodings: this.#encodings });
    }
  }

  release() {
    this.transceiver = null;
  }

  async replaceTrack(track) {
    await this.transceiver?.sender.replaceTrack(track);
    this.stream.removeTrack(this.track);
    this.stream.addTrack(track);
    this.track = track;
    if (track.kind === "video") this.#hint();
  }

  /** @param {{rid?: string|null, active: boolean}[]} encodings */
  setWanted(encodings) {
    for (const { rid = null, active } of encodings) {
      if (active) this.#unwanted.delete(rid);
      else this.#unwanted.add(rid);
    }
    this.settle();
  }

  /**
   * Makes the sender's parameters what they should be. One at a time, for browsers refuse parameters that were read
   * before another change; what comes meanwhile is done afterwards.
   */
  async settle() {
    this.#unsettled = true;
    if (this.#settling) return;
    this.#settling = true;
    for (let tries = 0; this.#unsettled && tries < 10; tries += 1) {
      this.#unsettled = false;
      const sender = this.transceiver?.sender;
      const parameters = sender?.getParameters();
      if (!parameters?.encodings?.length || !this.#adjust(parameters)) continue;
      try {
        await sender.setParameters(parameters);
      } catch (error) {
        if (error.name === "InvalidStateError") {
          // Something else changed them in between.
          this.#unsettled = true;
        } else if (this.#degradation !== null) {
          this.#degradation = null;
          this.#unsettled = true;
        } else {
          this.#log("info", "sending parameters not applied", { error: String(error) });
        }
      }
    }
    this.#settling = false;
  }

  /** Whether anything had to be changed. */
  #adjust(parameters) {
    let changed = false;
    const set = (object, member, value) => {
      if (value === undefined || object[member] === value) return;
      object[member] = value;
      changed = true;
    };
    parameters.encodings.forEach((encoding, index) => {
      const { maxBitrate, maxFramerate, scaleResolutionDownBy } = this.#encodings[index] ?? {};
      set(encoding, "active", !this.#unwanted.has(encoding.rid ?? null) && !(index === 0 && this.#unwanted.has(null)));
      set(encoding, "maxBitrate", maxBitrate);
      set(encoding, "maxFramerate", maxFramerate);
      set(encoding, "scaleResolutionDownBy", scaleResolutionDownBy);
    });
    if (this.#degradation !== null) set(parameters, "degradationPreference", this.#degradation);
    return changed;
  }
}

/**
 * A media element that shows a source of a participant, and what it needs of it: the size of the picture on the screen in
 * device pixels, or nothing while it cannot be seen.
 */
class View {
  element;
  userId;
  source;
  #priority;
  #hooks;
  #hinting;
  #size = null;
  #isOnScreen = true;
  #isPaused = false;
  #hideTimer = null;
  #sizeTimer = null;
  #sizedAt = -Infinity;
  #observers = [];
  #onVisibility = () => this.#look();
  #onPicture = () => this.#measure({ width: this.element.clientWidth, height: this.element.clientHeight });

  /**
   * @param {HTMLMediaElement} element
   * @param {{userId: string, source?: string, priority?: number, hints?: boolean}} what
   * @param {{
   *   onMove: () => void,
   *   onChange: (userId: string, source: string) => void,
   *   onDetach: () => void,
   * }} hooks
   */
  constructor(element, { userId, source, priority = 0, hints = true }, hooks) {
    const isVideo = element instanceof HTMLVideoElement;
    this.element = element;
    this.userId = userId;
    this.source = source ?? (isVideo ? "camera" : "microphone");
    this.#priority = priority;
    this.#hooks = hooks;
    this.#hinting = isVideo && hints;
    element.autoplay = true;
    element.playsInline = true;
    if (this.#hinting) this.#observe();
  }

  set stream(stream) {
    if (this.element.srcObject === stream) return;
    this.element.srcObject = stream;
    // Where sound needs a click first, the application asks for one.
    if (stream) this.element.play().catch(() => {});
  }

  /** What to ask the server for; `null` before there is anything to say. */
  get wish() {
    const { width, height } = this.#size ?? {};
    if (width === undefined && !this.#isPaused && this.#priority === 0) return null;
    return { maxWidth: width, maxHeight: height, priority: this.#priority, paused: this.#isPaused };
  }

  /** Shows somebody else or another source, or changes how much it matters. */
  update({ userId = this.userId, source = this.source, priority = this.#priority } = {}) {
    const before = { userId: this.userId, source: this.source };
    Object.assign(this, { userId, source });
    this.#priority = priority;
    if (before.userId !== userId || before.source !== source) this.#hooks.onChange(before.userId, before.source);
    this.#hooks.onMove();
  }

  detach() {
    for (const observer of this.#observers.splice(0)) observer.disconnect();
    this.element.removeEventListener("resize", this.#onPicture);
    document.removeEventListener("visibilitychange", this.#onVisibility);
    clearTimeout(this.#hideTimer);
    clearTimeout(this.#sizeTimer);
    this.element.srcObject = null;
    this.#hooks.onDetach();
    this.#hooks.onChange(this.userId, this.source);
  }

  #observe() {
    const sizes = new ResizeObserver((entries) => this.#measure(entries.at(-1).contentRect));
    const sight = new IntersectionObserver((entries) => {
      this.#isOnScreen = entries.at(-1).isIntersecting;
      this.#look();
    });
    this.#observers = [sizes, sight];
    for (const observer of this.#observers) observer.observe(this.element);
    // Also a picture that is turned, or is cut off by the element differently.
    this.element.addEventListener("resize", this.#onPicture);
    document.addEventListener("visibilitychange", this.#onVisibility);
  }

  #measure({ width, height }) {
    if (width === 0 || height === 0) return;
    const { videoWidth, videoHeight } = this.element;
    const aspect = videoWidth > 0 ? videoWidth / videoHeight : 16 / 9;
    const covers = ["cover", "fill"].includes(getComputedStyle(this.element).objectFit);
    const shown = covers ? Math.max(width, height * aspect) : Math.min(width, height * aspect);
    const pixels = shown * VIEW_MARGIN * (globalThis.devicePixelRatio || 1);
    const round = (size) => Math.ceil(size / VIEW_STEP) * VIEW_STEP;
    this.#size = { width: round(pixels), height: round(pixels / aspect) };
    this.#tellSize();
  }

  /** While somebody drags a window the last size counts, and one in between now and then. */
  #tellSize() {
    if (this.#sizeTimer !== null) return;
    const wait = this.#sizedAt + VIEW_GAP_MS - performance.now();
    const tell = () => {
      this.#sizeTimer = null;
      this.#sizedAt = performance.now();
      this.#hooks.onChange(this.userId, this.source);
    };
    if (wait <= 0) tell();
    else this.#sizeTimer = setTimeout(tell, wait);
  }

  /** Somebody who looks is served at once; who looks away may be back in a moment. */
  #look() {
    clearTimeout(this.#hideTimer);
    const isSeen = (this.#isOnScreen && document.visibilityState === "visible") || document.pictureInPictureElement === this.element;
    const set = () => {
      this.#isPaused = !isSeen;
      this.#hooks.onChange(this.userId, this.source);
    };
    if (isSeen !== this.#isPaused) return;
    if (isSeen) set();
    else this.#hideTimer = setTimeout(set, VIEW_HIDE_MS);
  }
}

/** What several elements that show the same need together. */
function combined(wishes) {
  const seen = wishes.filter(({ paused }) => !paused);
  const most = (member) => {
    const values = seen.map((wish) => wish[member]);
    // One whose size is not known may need all there is.
    return values.length === 0 || values.includes(undefined) ? undefined : Math.max(...values);
  };
  return {
    maxWidth: most("maxWidth"),
    maxHeight: most("maxHeight"),
    priority: most("priority"),
    paused: wishes.length > 0 && seen.length === 0,
  };
}

/** The data channel of one label: opened again when it was closed, on whatever connection there is. */
class Channel {
  label;
  lossy;
  #hooks;
  /** @type {RTCPeerConnection|null} */
  #pc = null;
  /** @type {RTCDataChannel|null} */
  #channel = null;
  #timer = null;
  #reopened = 0;
  #openedAt = Infinity;
  /** It was closed while its connection lived. */
  #hasGap = false;
  /** Reliable messages in order: {frame, bytes, resolve, reject}. */
  #waiting = [];
  #waitingBytes = 0;

  /**
   * @param {string} label
   * @param {boolean} lossy
   * @param {{log: Function, report: (error: CallError) => void, onFrame: (frame: string|ArrayBuffer) => void}} hooks
   */
  constructor(label, lossy, hooks) {
    this.label = label;
    this.lossy = lossy;
    this.#hooks = hooks;
  }

  get bufferedAmount() {
    return (this.#channel?.bufferedAmount ?? 0) + this.#waitingBytes;
  }

  /** Opens it on this connection; what waits goes there. */
  connect(pc) {
    if (pc === this.#pc) return;
    this.#pc = pc;
    this.#reopened = 0;
    this.#hasGap = false;
    this.#open();
  }

  #open() {
    clearTimeout(this.#timer);
    if (this.#pc === null || this.#pc.signalingState === "closed") return;
    try {
      const reliability = this.lossy ? { ordered: false, maxRetransmits: 0 } : { ordered: true };
      this.adopt(this.#pc.createDataChannel(this.label, reliability));
    } catch (error) {
      this.#hooks.report(new CallError("channel_failed", `No data channel "${this.label}": ${error.message}`, { cause: error }));
    }
  }

  /** Uses a channel that was opened here, or by the server. */
  adopt(channel) {
    const before = this.#channel;
    this.#channel = channel;
    if (before) before.onclose = before.onopen = before.onbufferedamountlow = null;
    channel.binaryType = "arraybuffer";
    channel.bufferedAmountLowThreshold = BUFFERED_MAX.lossy;
    channel.onmessage = ({ data }) => this.#onMessage(data);
    channel.onopen = () => {
      this.#openedAt = performance.now();
      if (this.#hasGap) {
        this.#hasGap = false;
        this.#hooks.report(new CallError("channel_closed", `The data channel "${this.label}" was closed; messages may be missing`));
      }
      this.#flush();
    };
    channel.onbufferedamountlow = () => this.#flush();
    channel.onclose = () => this.#onClose();
    this.#flush();
  }

  #onMessage(frame) {
    try {
      this.#hooks.onFrame(frame);
    } catch (error) {
      this.#hooks.log("warn", "a data channel message that makes no sense", { label: this.label, error: String(error) });
    }
  }

  /** The server closes the channel of whoever is too slow for it. */
  #onClose() {
    if (this.#pc === null || this.#pc.connectionState === "closed") return;
    if (performance.now() - this.#openedAt > REOPEN.maxMs) this.#reopened = 0;
    this.#openedAt = Infinity;
    const opensAgainIn = backoff(this.#reopened, REOPEN);
    this.#reopened += 1;
    this.#timer = setTimeout(() => this.#open(), opensAgainIn);
    // If it is the connection that ends, there will be more to say than this.
    this.#hasGap = true;
  }

  /** Whether it was sent; a lossy message that would have to wait is not. */
  send(frame) {
    const bytes = sizeOf(frame);
    if (bytes > MESSAGE_MAX) return Promise.reject(new CallError("too_large", `A message may have ${MESSAGE_MAX} bytes, this has ${bytes}`));
    if (this.lossy) {
      const channel = this.#channel;
      if (channel?.readyState !== "open" || channel.bufferedAmount > BUFFERED_MAX.lossy) return Promise.resolve(false);
      channel.send(frame);
      return Promise.resolve(true);
    }
    if (this.#waitingBytes + bytes > WAITING_MAX) {
      return Promise.reject(new CallError("too_fast", "Too much waits already; wait for the messages before"));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ frame, bytes, resolve, reject });
      this.#waitingBytes += bytes;
      this.#flush();
    });
  }

  #flush() {
    const channel = this.#channel;
    while (this.#waiting.length > 0 && channel?.readyState === "open" && channel.bufferedAmount <= BUFFERED_MAX.reliable) {
      const { frame, bytes, resolve, reject } = this.#waiting.shift();
      this.#waitingBytes -= bytes;
      try {
        channel.send(frame);
        resolve(true);
      } catch (error) {
        reject(new CallError("channel_failed", String(error), { cause: error }));
      }
    }
  }

  close(error) {
    clearTimeout(this.#timer);
    this.#pc = null;
    this.#waitingBytes = 0;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

/** Text is JSON, `{"to"?, "data"}`; bytes follow the length of the target's name and the name (RFC 8831 leaves it to us). */
function encodeFrame(data, to) {
  if (!(data instanceof ArrayBuffer) && !ArrayBuffer.isView(data)) {
    const json = JSON.stringify(to === undefined ? { data } : { to, data });
    if (data === undefined || typeof data === "function" || typeof data === "symbol") throw new TypeError("This is no JSON value");
    return json;
  }
  const payload = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const target = new TextEncoder().encode(to ?? "");
  if (target.length > 255) throw new CallError("not_found", "Nobody has a user id that long");
  const frame = new Uint8Array(1 + target.length + payload.length);
  frame[0] = target.length;
  frame.set(target, 1);
  frame.set(payload, 1 + target.length);
  return frame;
}

function decodeFrame(frame) {
  if (typeof frame === "string") return JSON.parse(frame);
  const bytes = new Uint8Array(frame);
  const from = bytes.subarray(1, 1 + bytes[0]);
  if (bytes.length === 0 || from.length !== bytes[0]) throw new RangeError("the sender's name is cut off");
  return { from: new TextDecoder().decode(from), data: bytes.slice(1 + bytes[0]) };
}

function sizeOf(frame) {
  return typeof frame === "string" ? new TextEncoder().encode(frame).length : frame.byteLength;
}

/** Ascending in quality, as browsers expect. */
function cameraEncodings(longerSide, bitrate, codec, simulcast) {
  const count = longerSide >= THREE_LAYERS_FROM ? 3 : longerSide >= TWO_LAYERS_FROM ? 2 : 1;
  if (!simulcast) return [capped({}, bitrate)];
  if (codec === "vp9" || codec === "av1") {
    // One stream with all layers in it; the lower ones only needed at key frames.
    return [capped({ scalabilityMode: count === 1 ? "L1T3" : `L${count}T3_KEY` }, bitrate)];
  }
  if (count === 1) return [capped({}, bitrate)];
  const { l, m, h } = LAYERS;
  // Of two, the lower one is half the size but still the lowest.
  const layers = count === 3 ? [l, m, h] : [{ ...m, rid: "l" }, h];
  const temporal = codec === "vp8" ? { scalabilityMode: "L1T3" } : {};
  return layers.map(({ rid, scaleResolutionDownBy, share, floor }) => {
    const part = Number.isFinite(bitrate) ? Math.min(bitrate, Math.max(Math.round(bitrate * share), floor)) : undefined;
    return capped({ rid, scaleResolutionDownBy, ...temporal }, part);
  });
}

function capped(encoding, maxBitrate) {
  return Number.isFinite(maxBitrate) && maxBitrate > 0 ? { ...encoding, maxBitrate } : encoding;
}

/**
 * One `RTCPeerConnection` and its negotiation with the server: one step at a time, and the client's offer wins over the
 * server's. While suspended nothing is sent; an offer without its answer goes out again at {@link Peer#resume}.
 */
class Peer {
  /** @type {RTCPeerConnection} */
  pc;
  #hooks;
  #steps = Promise.resolve();
  #suspended = true;
  #closed = false;
  #wanted = false;
  #restartWanted = false;
  #timer = null;
  #lastOfferAt = -Infinity;
  /** The client's offer that the server has not answered yet: {id, restart, data}. */
  #offer = null;
  #offerTimer = null;
  #interval = null;
  #waiters = [];
  /** The server's name of its side of this connection: the session id of its first description (RFC 8866 §5.2). */
  #session = null;
  /** Candidates of the server that came before its description. */
  #remoteCandidates = [];
  /** Own candidates that must not overtake the offer they belong to; `null` once offers are out. */
  #localCandidates = [];

  /**
   * @param {RTCConfiguration} configuration
   * @param {{
   *   log: Function,
   *   nextId: () => string,
   *   send: (type: string, data: any, options?: {id?: string}) => void,
   *   describe: () => object[],
   *   onAnswered: () => void,
   *   onState: (state: string) => void,
   *   onStale: (why: string) => void,
   *   onInterval: () => void,
   *   report: (error: CallError) => void,
   * }} hooks
   */
  constructor(configuration, hooks) {
    this.#hooks = hooks;
    this.#interval = setInterval(hooks.onInterval, FREEZES_INTERVAL_MS);
    const pc = new RTCPeerConnection(configuration);
    this.pc = pc;
    pc.onicecandidate = ({ candidate }) => this.#sendCandidate(candidate);
    pc.onconnectionstatechange = () => hooks.onState(pc.connectionState);
    pc.onicecandidateerror = (event) =>
      hooks.log("info", "ICE server trouble", { url: event.url, code: event.errorCode, text: event.errorText });
  }

  /** Whether an offer was ever made. */
  get isUsed() {
    return this.#lastOfferAt !== -Infinity;
  }

  /** Takes effect with the next gathering of candidates: the first offer, or an ICE restart. */
  setIceServers(iceServers) {
    if (iceServers.length === 0) return;
    try {
      this.pc.setConfiguration({ ...this.pc.getConfiguration(), iceServers });
    } catch (error) {
      this.#hooks.log("warn", "ICE servers not applied", { error: String(error) });
    }
  }

  suspend() {
    this.#suspended = true;
    this.#localCandidates ??= [];
    clearTimeout(this.#offerTimer);
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  resume() {
    this.#suspended = false;
    if (this.#offer) {
      // The server may have seen it or not; the same offer twice does no harm, taking back one that was accepted would.
      this.#step("offer again", () => this.#sendOffer()).catch(() => {});
    } else {
      this.#flushLocalCandidates();
      if (this.#wanted) this.#schedule(0);
    }
  }

  /** Gives back who still waits for an answer. */
  close() {
    this.suspend();
    clearInterval(this.#interval);
    this.#closed = true;
    const { pc } = this;
    pc.onicecandidate = pc.onconnectionstatechange = pc.onicecandidateerror = null;
    pc.close();
    return this.#waiters.splice(0);
  }

  /** Lets those who wait for another connection's answer wait for this one's. */
  adopt(waiters) {
    for (const waiter of waiters) this.#waiters.push({ ...waiter, inOffer: null });
  }

  /** Asks for an offer; resolves when the server has answered one that contains every change made so far. */
  negotiated() {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject, inOffer: null });
      this.request();
    });
  }

  /** Asks for an offer. */
  request({ iceRestart = false } = {}) {
    this.#wanted = true;
    this.#restartWanted ||= iceRestart;
    this.#schedule(0);
  }

  #step(name, run) {
    const result = this.#steps.then(async () => {
      if (!this.#closed) await run();
    });
    this.#steps = result.catch((error) => {
      if (!this.#closed) this.#hooks.log("error", `${name} failed`, { error: String(error) });
    });
    return result;
  }

  #report(error) {
    if (!this.#closed) this.#hooks.report(toCallError(error));
  }

  #schedule(delay) {
    if (this.#timer !== null || this.#offer !== null || this.#suspended) return;
    const gap = Math.max(delay, this.#lastOfferAt + OFFER_GAP_MS - performance.now(), 0);
    // Changes of the same turn share an offer.
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#step("offer", () => this.#makeOffer()).catch((error) => this.#settle(toCallError(error)));
    }, gap);
  }

  async #makeOffer() {
    const { pc } = this;
    if (!this.#wanted || this.#offer !== null || this.#suspended) return;
    if (pc.signalingState !== "stable") {
      this.#hooks.log("info", "offer waits", { signalingState: pc.signalingState });
      return;
    }
    this.#wanted = false;
    const restart = this.#restartWanted && pc.connectionState !== "connected";
    this.#restartWanted = false;
    this.#lastOfferAt = performance.now();
    const id = this.#hooks.nextId();
    for (const waiter of this.#waiters) waiter.inOffer ??= id;
    await pc.setLocalDescription(await pc.createOffer({ iceRestart: restart }));
    this.#offer = { id, restart };
    this.#sendOffer();
  }

  #sendOffer() {
    const { pc } = this;
    if (this.#offer === null || this.#suspended || pc.signalingState !== "have-local-offer") return;
    this.#offerTimer = setTimeout(() => {
      this.#refused(new CallError("timeout", "The server did not answer an offer", { request: "offer" }));
    }, OFFER_TIMEOUT_MS);
    const { type, sdp } = pc.localDescription;
    if (!this.#send("offer", { sdp: { type, sdp }, tracks: this.#hooks.describe() }, { id: this.#offer.id })) return;
    this.#flushLocalCandidates();
  }

  /** Whether it could be sent; if not, the socket is about to be reported as lost. */
  #send(type, data, options) {
    try {
      this.#hooks.send(type, data, options);
      return true;
    } catch (error) {
      this.#hooks.log("info", `"${type}" not sent`, { error: String(error) });
      return false;
    }
  }

  onAnswer(id, description) {
    this.#step("answer", async () => {
      if (this.#offer === null || (id !== undefined && id !== this.#offer.id)) {
        this.#hooks.log("warn", "an answer to no offer of ours", { id, outstanding: this.#offer?.id });
        return;
      }
      const offer = this.#offer;
      clearTimeout(this.#offerTimer);
      const answer = asDescription("answer", description);
      // Its new connection would take our ICE checks, and never understand the keys of the old one.
      if (this.#isOfAnother(answer)) return this.#hooks.onStale("answered by another connection");
      try {
        await this.pc.setRemoteDescription(answer);
      } catch (error) {
        this.#offer = null;
        await this.#rollback();
        throw new CallError("bad_answer", `The server's answer cannot be used: ${error.message}`, { cause: error });
      }
      this.#offer = null;
      await this.#flushRemoteCandidates();
      this.#hooks.onAnswered();
      this.#settle(null, offer.id);
      if (this.#wanted) this.#schedule(0);
    }).catch((error) => {
      this.#settle(toCallError(error));
      this.#report(error);
    });
  }

  #isOfAnother({ sdp }) {
    const session = /^o=\S+ (\S+)/m.exec(sdp ?? "")?.[1] ?? null;
    this.#session ??= session;
    return session !== this.#session;
  }

  /** Whether it was an offer of this connection that the server refused. */
  onRefused(id, error) {
    if (id === undefined || id === null || id !== this.#offer?.id) return false;
    this.#refused(error);
    return true;
  }

  /** The server does not want an offer: it is rolled back; one that failed for a passing reason is made again. */
  #refused(error) {
    const offer = this.#offer;
    clearTimeout(this.#offerTimer);
    this.#step("rollback", async () => {
      if (offer === null || this.#offer !== offer) return;
      await this.#rollback();
      this.#offer = null;
      this.#restartWanted ||= offer.restart;
      if (error.code === "rate_limited") {
        for (const waiter of this.#waiters) {
          if (waiter.inOffer === offer.id) waiter.inOffer = null;
        }
        this.#wanted = true;
      } else if (error.code === "not_available" || (offer.restart && error.code !== "timeout")) {
        this.#hooks.onStale(error.code);
        return;
      } else {
        this.#settle(error, offer.id);
        this.#report(error);
      }
      if (this.#wanted) this.#schedule(OFFER_RETRY_MS);
    }).catch((failure) => this.#report(failure));
  }

  /** Back to stable, whoever's offer is pending; without that nothing could be negotiated any more. */
  async #rollback() {
    const { pc } = this;
    if (pc.signalingState === "have-local-offer") await pc.setLocalDescription({ type: "rollback" });
    if (pc.signalingState === "have-remote-offer") await pc.setRemoteDescription({ type: "rollback", sdp: "" });
  }

  #settle(error, id) {
    const rest = [];
    for (const waiter of this.#waiters) {
      if (id !== undefined && waiter.inOffer !== id) rest.push(waiter);
      else if (error) waiter.reject(error);
      else waiter.resolve();
    }
    this.#waiters = rest;
  }

  onOffer(id, description) {
    this.#step("server offer", async () => {
      const { pc } = this;
      if (this.#offer !== null || pc.signalingState !== "stable") {
        this.#hooks.log("info", "glare: the server's offer is ignored, ours is under way", { id });
        return;
      }
      const offer = asDescription("offer", description);
      if (this.#session !== null && this.#isOfAnother(offer)) return this.#hooks.onStale("offered by another connection");
      try {
        await pc.setRemoteDescription(offer);
        await this.#flushRemoteCandidates();
        await pc.setLocalDescription(await pc.createAnswer());
      } catch (error) {
        await this.#rollback();
        throw new CallError("bad_offer", `The server's offer cannot be used: ${error.message}`, { cause: error });
      }
      if (!this.#suspended) {
        const { type, sdp } = pc.localDescription;
        this.#send("answer", { sdp: { type, sdp } }, { id });
        this.#flushLocalCandidates();
      }
      if (this.#wanted) this.#schedule(0);
    }).catch((error) => this.#report(error));
  }

  #sendCandidate(candidate) {
    if (this.#localCandidates !== null) {
      this.#localCandidates.push(candidate);
      return;
    }
    this.#send("ice-candidate", { candidate: candidate && candidate.candidate !== "" ? candidate.toJSON() : null });
  }

  #flushLocalCandidates() {
    if (!this.isUsed || this.#suspended) return;
    const held = this.#localCandidates ?? [];
    this.#localCandidates = null;
    for (const candidate of held) this.#sendCandidate(candidate);
  }

  onCandidate(candidate) {
    this.#remoteCandidates.push(candidate ?? null);
    this.#step("candidate", () => this.#flushRemoteCandidates()).catch(() => {});
  }

  async #flushRemoteCandidates() {
    if (!this.pc.remoteDescription) return;
    for (const candidate of this.#remoteCandidates.splice(0)) {
      const init = typeof candidate === "string" ? { candidate, sdpMLineIndex: 0 } : candidate;
      try {
        await this.pc.addIceCandidate(init ?? undefined);
      } catch (error) {
        this.#hooks.log("info", "a candidate of the server was not accepted", { candidate, error: String(error) });
      }
    }
  }
}

/**
 * Opens camera and microphone, with the server's `encoding` as defaults for size and frame rate.
 *
 * @param {{audio?: boolean|MediaTrackConstraints, video?: boolean|MediaTrackConstraints}} [constraints]
 * @param {import("./client.d.ts").Encoding|null} [encoding]
 */
export async function capture(constraints = {}, encoding = null) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CallError("insecure_context", "Browsers give camera and microphone to https:// and localhost pages only");
  }
  const { audio = true, video = true } = constraints;
  const wishes = {
    width: { ideal: encoding?.video?.width ?? 1280 },
    height: { ideal: encoding?.video?.height ?? 720 },
    frameRate: { ideal: encoding?.video?.framerate ?? 30 },
  };
  return navigator.mediaDevices.getUserMedia({
    audio,
    video: video ? { ...wishes, ...(video === true ? {} : video) } : false,
  });
}

function socketUrl(url) {
  const base = new URL(url ?? SOCKET_PATH, globalThis.location?.href);
  base.protocol = base.protocol.replace(/^http/, "ws");
  if (base.pathname === "/" || base.pathname === "") base.pathname = SOCKET_PATH;
  base.hash = "";
  return base.href;
}

function tracksOf(media) {
  if (media instanceof MediaStream) return media.getTracks();
  return Array.isArray(media) ? media : [media];
}

function sourceOf(track, source) {
  if (track.kind === "audio") return source?.startsWith("screen") ? "screen-audio" : "microphone";
  return source === "screen" ? "screen" : "camera";
}

function mutedOf(muted, before) {
  if (typeof muted === "boolean") return { audio: muted, video: before.video };
  if (Array.isArray(muted)) return { audio: muted.includes("audio"), video: muted.includes("video") };
  return { audio: Boolean(muted?.audio ?? before.audio), video: Boolean(muted?.video ?? before.video) };
}

function asDescription(type, sdp) {
  return typeof sdp === "string" ? { type, sdp } : { type: sdp?.type ?? type, sdp: sdp?.sdp };
}

/**
 * The codecs that calls use. Browsers list many more (4:4:4 profiles, H.264 without fragmentation, telephony); each costs
 * lines in every m-line of every offer.
 */
function callCodecs(side, kind) {
  const codecs = side.getCapabilities?.(kind)?.codecs ?? [];
  return codecs.filter(({ mimeType, sdpFmtpLine = "" }) => {
    switch (mimeType.toLowerCase()) {
      case "audio/opus":
      case "audio/red":
      case "video/vp8":
        return true;
      case "video/vp9":
        return !/profile-id=[1-9]/.test(sdpFmtpLine);
      case "video/av1":
        return !/(^|;)profile=[1-9]/.test(sdpFmtpLine);
      case "video/h264":
        return /packetization-mode=1/.test(sdpFmtpLine) && !/profile-level-id=f4/i.test(sdpFmtpLine);
      default:
        // Firefox makes an SDP that Chromium's parser refuses when red or ulpfec is left out beside rtx.
        return isHelper({ mimeType });
    }
  });
}

function isCodec(name) {
  return ({ mimeType }) => mimeType.toLowerCase().endsWith(`/${name.toLowerCase()}`);
}

/** Retransmission and error correction: no pictures of their own. */
function isHelper({ mimeType }) {
  return /^video\/(rtx|red|ulpfec|flexfec-03)$/i.test(mimeType);
}

function isServer(message) {
  return message.userId === SFU || message.userId === undefined || message.userId === null;
}

/** Refusals and failures that may be over at the next try. */
const PASSING = new Set([
  "lost",
  "timeout",
  "unreachable",
  "socket_refused",
  "server_going_away",
  "server_draining",
  "rate_limited",
  "token_failed",
  "not_connected",
]);

/** Exponential, with jitter so that not everybody comes back to a restarted server at the same moment. */
function backoff(attempt, { firstMs, maxMs }) {
  return Math.min(maxMs, firstMs * 2 ** attempt) * (0.5 + Math.random() / 2);
}

/** What no ICE restart can mend: closed, or a DTLS session that is gone. */
function isBroken(pc) {
  return pc.connectionState === "closed" || (pc.connectionState === "failed" && pc.iceConnectionState !== "failed");
}

/** Whether a JSON Web Token is over by its own account. What cannot be read is left to the server. */
function expiresSoon(token) {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return exp * 1000 < Date.now() + RETRY_ATTEMPT_MS;
  } catch {
    return false;
  }
}

/** All about somebody that an event would tell of, to see whether it has changed. */
function description({ displayName, role, metadata, muted, connection, tracks }) {
  const published = [...tracks.values()].map(({ trackId, source }) => [trackId, source]);
  return JSON.stringify([displayName, role, metadata, muted, connection, published]);
}

function closeCode(errorCode) {
  const codes = Object.values(CloseCode);
  return codes.find((code) => closeReason(code) === errorCode) ?? CloseCode.ABNORMAL;
}

function closeReason(code) {
  switch (code) {
    case CloseCode.LEFT:
      return "left";
    case CloseCode.GOING_AWAY:
      return "server_going_away";
    case CloseCode.POLICY:
      return "policy";
    case CloseCode.KICKED:
      return "kicked";
    case CloseCode.CALL_ENDED:
      return "call_ended";
    case CloseCode.REPLACED:
      return "replaced";
    case CloseCode.TOKEN_EXPIRED:
      return "token_expired";
    default:
      return "lost";
  }
}

function toCallError(error) {
  if (error instanceof CallError) return error;
  return new CallError(error?.name === "NotAllowedError" ? "not_allowed" : "internal", error?.message ?? String(error), {
    cause: error,
  });
}

/** Quiet unless `localStorage.debug` holds `webrtc`; warnings always show. */
function defaultLog() {
  let verbose = false;
  try {
    verbose = /webrtc/.test(globalThis.localStorage?.getItem("debug") ?? "");
  } catch {
    // Storage may be forbidden.
  }
  return (level, text, data) => {
    if (level === "warn" || level === "error") {
      console[level](`[call] ${text}`, data ?? "");
    } else if (verbose) {
      console.log(`[call] ${text}`, data ?? "");
    }
  };
}
