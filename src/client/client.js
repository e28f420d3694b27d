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
 * How it works: one WebSocket carries signaling, one `RTCPeerConnection` carries all media in both directions. The
 * offer comes from here and holds the senders plus a number of receive-only *slots*. The server fills and refills the
 * slots and tells by `track-subscribed` whose track a slot carries, so that people come and go without any SDP.
 *
 * Nothing is reconnected automatically: a lost socket is reported as `connection-state` `"lost"`, then `closed`.
 *
 * @module client
 */

/** Version of this module; the server that serves it speaks the same protocol. */
export const VERSION = "0.1.0";

const PROTOCOL = "webrtc-engine.v1";
const SOCKET_PATH = "/video-calls/ws";
const SFU = "sfu";

/** Receive slots in the first offer. More is a larger SDP for everyone, fewer means a second offer in larger calls. */
const INITIAL_SLOTS = { audio: 3, video: 9 };
/** Receive slots at most; beyond that the server shows the active speakers. */
const MAX_SLOTS = { audio: 16, video: 16 };
/** Between two offers; the server accepts 2 a second with a burst of 10. */
const OFFER_GAP_MS = 300;
const OFFER_TIMEOUT_MS = 15_000;
const CONNECT_TIMEOUT_MS = 20_000;
/** A wait between two tries of an offer that the server refused for a passing reason. */
const OFFER_RETRY_MS = 1_000;
/** A `muted` about oneself within this time after one's own message is taken for its echo. */
const MUTE_ECHO_MS = 3_000;
/** The server's ping comes every 20 s; browsers cannot see it, so the SDK sends its own to notice a dead network. */
const PING_INTERVAL_MS = 15_000;
const PONG_TIMEOUT_MS = 30_000;

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
    /** Audio level of the last `active-speaker`, 0 when silent. */
    this.level = 0;
    /**
     * What the participant publishes, by track id; received or not.
     * @type {Map<string, {trackId: string, kind: "audio"|"video", source: string, track: MediaStreamTrack|null, mid: string|null}>}
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
  #state = "new";
  /** @type {WebSocket|null} */
  #socket = null;
  /** @type {RTCPeerConnection|null} */
  #pc = null;
  #nextRequest = 1;
  /** Requests without an answer so far: id to what to do about it. */
  #requests = new Map();
  /** Participants by user id, without oneself. */
  #participants = new Map();
  #local = new Participant("", true);
  #joined = null;
  #closed = null;
  #leaving = false;
  #connecting = null;
  /** When one's own mute or unmute was last sent, to tell its echo from somebody else's order. */
  #muteSentAt = { audio: -Infinity, video: -Infinity };

  /** What is sent: {track, source, name, transceiver, streamGroup}. */
  #publications = new Set();
  /** What each receive m-line carries: mid to {kind, mid, transceiver, userId, trackId, source}. */
  #slots = new Map();
  /** Receive transceivers asked for, per kind, whether negotiated or not. */
  #slotCount = { audio: 0, video: 0 };

  /** Negotiation steps run one after the other. */
  #steps = Promise.resolve();
  #negotiationWanted = false;
  #negotiationTimer = null;
  #lastOfferAt = -Infinity;
  /** The id of the client's offer that the server has not answered yet. */
  #outstandingOffer = null;
  #offerTimer = null;
  #offerWaiters = [];
  /** Candidates of the server that came before its description. */
  #remoteCandidates = [];
  /** Own candidates that must not overtake the offer they belong to; `null` once offers are out. */
  #localCandidates = [];

  #pingTimer = null;
  #lastHeard = 0;

  /** @param {import("./client.d.ts").CallOptions} options */
  constructor(options) {
    super();
    if (!options || typeof options.token !== "string" || options.token === "") {
      throw new TypeError("Call needs a token");
    }
    if (typeof options.roomId !== "string" || options.roomId === "") {
      throw new TypeError("Call needs a roomId");
    }
    this.#options = { ...options };
    this.#log = options.log ?? defaultLog();
    this.#local.displayName = options.displayName ?? "";
    for (const kind of ["audio", "video"]) this.#local.muted[kind] = Boolean(options.muted?.[kind]);
    this.#local.metadata = options.metadata ?? null;
    if (options.localStream) {
      for (const track of options.localStream.getTracks()) this.#register(track, {});
    }
  }

  // What can be asked

  /** `new`, `connecting`, `waiting`, `joined`, `connected`, `lost` or `closed`. */
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

  /** The connection that carries the media, for statistics and experiments; `null` before `joined`. */
  get peerConnection() {
    return this.#pc;
  }

  /** Report of the media connection; an empty one before there is a connection. */
  async getStats() {
    return this.#pc ? this.#pc.getStats() : new Map();
  }

  // Joining and leaving

  /**
   * Opens the socket, joins and sends the first offer. Resolves when the server has let us in and answered the offer;
   * media may still be connecting (`connection-state` tells). Rejects with a {@link CallError}.
   */
  connect() {
    if (this.#connecting === null) {
      this.#connecting = this.#connect();
    }
    return this.#connecting;
  }

  async #connect() {
    this.#setState("connecting");
    const url = socketUrl(this.#options.url);
    this.#log("info", "connecting", { url, roomId: this.roomId });
    try {
      await this.#openSocket(url);
      const data = { receive: "slots" };
      if (this.#options.displayName) data.displayName = this.#options.displayName;
      if (this.#options.metadata !== undefined) data.metadata = this.#options.metadata;
      const joined = await this.#join(data);
      this.#onJoined(joined);
      await this.#startMedia();
    } catch (error) {
      const failure = toCallError(error);
      this.#log("warn", "connect failed", { code: failure.code, message: failure.message });
      this.#close(CloseCode.ABNORMAL, failure.message, failure.code);
      throw failure;
    }
  }

  /** The answer to a join is quick, except in the lobby, where it takes as long as the host takes. */
  async #join(data) {
    const timer = setTimeout(() => {
      if (this.#state === "connecting") this.#onSocketClosed(CloseCode.ABNORMAL, "no answer to the join");
    }, CONNECT_TIMEOUT_MS);
    try {
      return await this.#request("join", data);
    } finally {
      clearTimeout(timer);
    }
  }

  #openSocket(url) {
    return new Promise((resolve, reject) => {
      let socket;
      try {
        socket = new WebSocket(url, [PROTOCOL, `bearer.${this.#options.token}`]);
      } catch (error) {
        reject(new CallError("bad_url", `The address ${url} or the token cannot be used`, { cause: error }));
        return;
      }
      this.#socket = socket;
      let opened = false;
      const timer = setTimeout(() => {
        if (!opened) {
          reject(new CallError("timeout", "The server did not answer in time"));
          socket.close();
        }
      }, CONNECT_TIMEOUT_MS);
      socket.onopen = () => {
        opened = true;
        clearTimeout(timer);
        this.#lastHeard = performance.now();
        this.#pingTimer = setInterval(() => this.#heartbeat(), PING_INTERVAL_MS);
        resolve();
      };
      socket.onmessage = (event) => this.#onSocketMessage(event.data);
      socket.onclose = (event) => {
        clearTimeout(timer);
        if (opened) {
          this.#onSocketClosed(event.code, event.reason);
        } else {
          this.#whyRefused(url).then(reject);
        }
      };
    });
  }

  /** Browsers hide why an upgrade was refused, so the same server is asked over HTTP with the same token. */
  async #whyRefused(url) {
    const address = new URL(url.replace(/^ws/, "http"));
    address.pathname = address.pathname.replace(
      /\/video-calls\/ws$/,
      `/video-calls/${encodeURIComponent(this.roomId)}/ice-servers`,
    );
    address.search = "";
    let response;
    try {
      response = await fetch(address, {
        headers: { authorization: `Bearer ${this.#options.token}` },
        signal: AbortSignal.timeout(5_000),
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

  /** Leaves the call: immediate for everyone else. Local tracks are stopped unless `stopTracks` is `false`. */
  async leave({ stopTracks = true } = {}) {
    if (this.#state === "closed") return;
    this.#leaving = true;
    if (stopTracks) {
      for (const publication of this.#publications) publication.track?.stop();
    }
    if (this.#socket?.readyState === WebSocket.OPEN && this.#joined) {
      this.#send("leave", undefined);
    }
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
    if (this.#pc) {
      for (const publication of added) this.#attach(publication);
      try {
        await this.#negotiated();
      } catch (error) {
        // What the server refused is not offered again with the next change.
        for (const publication of added) await this.#detach(publication);
        throw error;
      }
    }
  }

  #register(track, options) {
    for (const existing of this.#publications) {
      if (existing.track === track) throw new CallError("already_published", `Track ${track.id} is sent already`);
    }
    const publication = {
      track,
      source: sourceOf(track, options.source),
      name: options.name ?? track.label ?? "",
      videoCodec: options.videoCodec ?? this.#options.videoCodec ?? null,
      transceiver: null,
      stream: new MediaStream([track]),
    };
    this.#publications.add(publication);
    this.#local.streams.set(publication.source, publication.stream);
    this.#applyEnabled(publication);
    track.addEventListener("ended", () => {
      if (!this.#publications.has(publication) || publication.track !== track) return;
      this.#emit("local-track-ended", { track, source: publication.source, kind: track.kind });
      this.unpublish(track).catch((error) => this.#report(error));
    });
    return publication;
  }

  /**
   * Stops sending tracks; the tracks themselves go on.
   *
   * @param {MediaStream|MediaStreamTrack|MediaStreamTrack[]|string} media tracks, or the name of a source
   */
  async unpublish(media) {
    const gone =
      typeof media === "string"
        ? [...this.#publications].filter((publication) => publication.source === media)
        : [...this.#publications].filter((publication) => tracksOf(media).includes(publication.track));
    let changed = false;
    for (const publication of gone) {
      changed = (await this.#detach(publication)) || changed;
    }
    if (changed) await this.#negotiated();
  }

  /** Takes a publication off its m-line; whether that has to be negotiated. */
  async #detach(publication) {
    this.#publications.delete(publication);
    if (this.#local.streams.get(publication.source) === publication.stream) {
      this.#local.streams.delete(publication.source);
    }
    const transceiver = publication.transceiver;
    if (!transceiver || this.#state === "closed") return false;
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
    await publication.transceiver?.sender.replaceTrack(newTrack);
    publication.stream.removeTrack(oldTrack);
    publication.stream.addTrack(newTrack);
    publication.track = newTrack;
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
    if (this.#joined) {
      this.#muteSentAt[kind] = performance.now();
      this.#send(muted ? "mute" : "unmute", { kind }, {
        onError: (error) => {
          this.#applyLocalMute(kind, before);
          this.#emit("muted", { userId: this.#local.userId, kind, muted: before, participant: this.#local });
          this.#report(error);
        },
      });
    }
    this.#emit("muted", { userId: this.#local.userId, kind, muted, participant: this.#local });
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

  /** Mutes somebody else; needs the right to moderate. */
  muteParticipant(userId, kind = "audio") {
    this.#send("mute", { kind }, { to: userId });
  }

  /** Says what one wishes to receive of a track or a participant, e.g. `{quality: "low", maxWidth: 320}`. */
  setSubscription(target, wishes = {}) {
    this.#send("subscribe", { ...target, ...wishes });
  }

  // Signaling

  /**
   * @param {string} type
   * @param {any} [data]
   * @param {{to?: string, id?: string, onError?: (error: CallError) => void}} [options]
   */
  #send(type, data, { to, id, onError } = {}) {
    const socket = this.#socket;
    if (!socket || socket.readyState !== WebSocket.OPEN) {
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
    socket.send(JSON.stringify(message));
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

  #heartbeat() {
    const silentFor = performance.now() - this.#lastHeard;
    if (silentFor > PING_INTERVAL_MS + PONG_TIMEOUT_MS) {
      this.#log("warn", "nothing heard from the server", { silentFor });
      this.#onSocketClosed(CloseCode.ABNORMAL, "nothing heard from the server");
      return;
    }
    if (this.#joined) {
      try {
        this.#send("ping", undefined);
      } catch {
        // The close event follows.
      }
    }
  }

  #onSocketMessage(text) {
    this.#lastHeard = performance.now();
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
        const request = this.#takeRequest(message.id, "join");
        request?.resolve?.(data);
        break;
      }
      case "waiting":
        this.#setState("waiting");
        this.#emit("waiting", data);
        break;
      case "answer":
        if (isServer(message)) this.#onAnswer(message.id, data.sdp);
        break;
      case "offer":
        if (isServer(message)) this.#onServerOffer(message.id, data.sdp);
        break;
      case "ice-candidate":
        if (isServer(message)) this.#onCandidate(data.candidate);
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
      case "room-closed":
      case "server-draining":
      case "quality":
      case "quality-warning":
      case "layer-changed":
      case "room-updated":
      case "recording-started":
      case "recording-stopped":
      case "recording-completed":
      case "token-expiring":
        this.#emit(message.type, data);
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
    if (id !== undefined && id === this.#outstandingOffer) {
      this.#onOfferRefused(error);
    } else if (request?.onError) {
      request.onError(error);
    } else {
      this.#report(error);
    }
  }

  #onSocketClosed(code, reason) {
    if (this.#state === "closed") return;
    this.#log("info", "socket closed", { code, reason });
    const known = closeReason(code);
    if (known === "lost" && !this.#leaving) this.#setState("lost");
    this.#close(code, reason || known, known === "left" ? null : known);
  }

  #close(code, reason, errorCode) {
    if (this.#state === "closed") return;
    this.#closed = { code, reason, error: errorCode };
    clearInterval(this.#pingTimer);
    clearTimeout(this.#offerTimer);
    clearTimeout(this.#negotiationTimer);
    const socket = this.#socket;
    if (socket) {
      socket.onmessage = null;
      socket.onclose = null;
      if (socket.readyState <= WebSocket.OPEN) socket.close(CloseCode.LEFT);
    }
    if (this.#pc) {
      this.#pc.onconnectionstatechange = null;
      this.#pc.close();
    }
    const failure = new CallError(errorCode ?? "closed", reason);
    for (const request of this.#requests.values()) request.resolve && request.onError?.(failure);
    this.#requests.clear();
    this.#settleOffers(failure);
    for (const slot of this.#slots.values()) this.#empty(slot);
    this.#setState("closed");
    this.#emit("closed", { code, reason, error: errorCode });
  }

  // Who is there

  #onJoined(data) {
    this.#joined = data;
    const you = data.you ?? {};
    this.#local.userId = you.userId ?? this.#local.userId;
    this.#local.role = you.role ?? this.#local.role;
    this.#local.displayName = you.displayName || this.#local.displayName || this.#local.userId;
    this.#local.permissions = you.permissions ?? null;
    for (const kind of ["audio", "video"]) {
      if (mutedOf(you.muted ?? {}, this.#local.muted)[kind]) this.#applyLocalMute(kind, true);
    }
    for (const info of data.participants ?? []) {
      if (info.userId !== this.#local.userId) this.#addParticipant(info);
    }
    this.#setState("joined");
    this.#emit("joined", data);
    for (const participant of this.#participants.values()) {
      this.#emit("participant-joined", { participant, userId: participant.userId, present: true });
    }
    // Whoever mutes before joining stays muted.
    for (const kind of ["audio", "video"]) {
      if (this.#local.muted[kind]) this.#send("mute", { kind });
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

  #addTrack(participant, { trackId, kind, source }) {
    if (!trackId) return;
    const known = participant.tracks.get(trackId);
    if (known) {
      if (source) known.source = source;
      return;
    }
    participant.tracks.set(trackId, {
      trackId,
      kind,
      source: source ?? (kind === "audio" ? "microphone" : "camera"),
      track: null,
      mid: null,
    });
  }

  #onUserJoined(info) {
    if (info.userId === this.#local.userId) return;
    const again = this.#participants.has(info.userId);
    const participant = this.#addParticipant(info);
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
    this.#emit("participant-left", { participant, userId, reason });
  }

  #onUserUpdated(info) {
    const participant = this.#participant(info.userId);
    if (!participant) return;
    this.#update(participant, info);
    if (participant.local && info.permissions) this.#local.permissions = info.permissions;
    this.#emit("participant-updated", { participant, userId: info.userId });
  }

  #onTrackPublished(userId, data) {
    const participant = this.#participants.get(userId);
    if (!participant) return;
    this.#addTrack(participant, data.track ?? data);
    this.#emit("participant-updated", { participant, userId });
    this.#growSlots();
  }

  #onTrackUnpublished(userId, trackId) {
    const participant = this.#participants.get(userId);
    for (const slot of this.#slots.values()) {
      if (slot.trackId === trackId && slot.userId === userId) this.#empty(slot);
    }
    if (!participant) return;
    participant.tracks.delete(trackId);
    this.#emit("participant-updated", { participant, userId });
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

  // Receiving

  /**
   * The server says what a slot carries. Emptied slots keep their transceiver: the same m-line, SSRC and
   * `MediaStreamTrack` serve the next one.
   */
  #onTrackSubscribed(data) {
    const mid = String(data.mid);
    const transceiver = this.#pc?.getTransceivers().find((candidate) => candidate.mid === mid);
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
      info.track = null;
      info.mid = null;
      participant.streams.delete(source);
    }
    this.#emit("track-unsubscribed", { participant, userId, trackId, kind, source, mid, track: transceiver.receiver.track });
  }

  /** Adds receive transceivers while there are more remote tracks of a kind than slots. */
  #growSlots() {
    if (!this.#pc) return;
    const wanted = { audio: 0, video: 0 };
    for (const participant of this.#participants.values()) {
      for (const { kind } of participant.tracks.values()) wanted[kind] += 1;
    }
    let grown = false;
    for (const kind of ["audio", "video"]) {
      const target = Math.min(wanted[kind], MAX_SLOTS[kind]);
      while (this.#slotCount[kind] < target) {
        this.#addSlot(kind);
        grown = true;
      }
    }
    if (grown) {
      this.#log("info", "more slots", { ...this.#slotCount });
      this.#negotiated().catch((error) => this.#report(error));
    }
  }

  #addSlot(kind) {
    const transceiver = this.#pc.addTransceiver(kind, { direction: "recvonly" });
    if (kind === "video") this.#setCodecs(transceiver, callCodecs(RTCRtpReceiver));
    this.#slotCount[kind] += 1;
  }

  // Sending

  async #startMedia() {
    const iceServers = this.#options.iceServers ?? this.#joined.iceServers ?? [];
    const pc = new RTCPeerConnection({
      iceServers,
      iceTransportPolicy: this.#options.iceTransportPolicy ?? "all",
      bundlePolicy: "max-bundle",
      rtcpMuxPolicy: "require",
    });
    this.#pc = pc;
    pc.onicecandidate = ({ candidate }) => this.#sendCandidate(candidate);
    pc.onconnectionstatechange = () => this.#onMediaState(pc.connectionState);
    pc.onicecandidateerror = (event) =>
      this.#log("info", "ICE server trouble", { url: event.url, code: event.errorCode, text: event.errorText });

    const permitted = this.#local.permissions?.publish !== false && this.#local.role !== "viewer";
    for (const publication of this.#publications) {
      if (permitted) {
        this.#attach(publication);
      } else {
        this.#publications.delete(publication);
      }
    }
    const slots = { ...INITIAL_SLOTS, ...(this.#options.slots ?? {}) };
    for (const kind of ["audio", "video"]) {
      for (let n = 0; n < Math.min(slots[kind], MAX_SLOTS[kind]); n += 1) this.#addSlot(kind);
    }
    this.#growSlots();
    await this.#negotiated();
  }

  /** Gives a publication an m-line: an inactive one of its kind that was ours before, else a new one. */
  #attach(publication) {
    const pc = this.#pc;
    const { track } = publication;
    const busy = new Set([...this.#publications].map((other) => other.transceiver));
    const idle = pc.getTransceivers().find(
      (transceiver) =>
        transceiver.direction === "inactive" &&
        transceiver.currentDirection !== "stopped" &&
        transceiver.receiver.track.kind === track.kind &&
        !transceiver.sender.track &&
        !busy.has(transceiver),
    );
    if (idle) {
      idle.direction = "sendonly";
      idle.sender.setStreams?.(publication.stream);
      idle.sender.replaceTrack(track).catch((error) => this.#report(error));
      publication.transceiver = idle;
    } else {
      publication.transceiver = pc.addTransceiver(track, {
        direction: "sendonly",
        streams: [publication.stream],
        sendEncodings: [this.#sendEncoding(track.kind)],
      });
    }
    this.#preferCodec(publication);
    this.#applyBitrate(publication);
  }

  #sendEncoding(kind) {
    const encoding = {};
    const maxBitrate = kind === "video" ? this.encoding?.video?.bitrate?.max : this.encoding?.audio?.bitrate;
    if (Number.isFinite(maxBitrate) && maxBitrate > 0) encoding.maxBitrate = maxBitrate;
    return encoding;
  }

  /** Browsers differ in whether `sendEncodings` sticks for a reused sender, so the cap is set on its parameters too. */
  async #applyBitrate({ transceiver, track }) {
    const { maxBitrate } = this.#sendEncoding(track.kind);
    if (!maxBitrate) return;
    try {
      const parameters = transceiver.sender.getParameters();
      if (!parameters.encodings?.length || parameters.encodings[0].maxBitrate === maxBitrate) return;
      parameters.encodings[0].maxBitrate = maxBitrate;
      await transceiver.sender.setParameters(parameters);
    } catch (error) {
      this.#log("info", "bitrate cap not applied", { error: String(error) });
    }
  }

  #preferCodec({ transceiver, track, videoCodec }) {
    if (track.kind !== "video") return;
    const wanted = (videoCodec ?? this.encoding?.video?.codec ?? "").toLowerCase();
    const codecs = callCodecs(RTCRtpSender);
    const isWanted = (codec) => codec.mimeType.toLowerCase() === `video/${wanted}`;
    const first = codecs.filter(isWanted);
    if (first.length === 0 && videoCodec) {
      this.#log("warn", `this browser cannot send ${videoCodec}`);
    }
    const only = Boolean(videoCodec) && first.length > 0;
    const rest = codecs.filter((codec) => !isWanted(codec) && (!only || isHelper(codec)));
    this.#setCodecs(transceiver, [...first, ...rest]);
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
    this.#log("info", `media ${state}`, { ice: this.#pc.iceConnectionState });
    if (state === "connected") {
      this.#setState("connected");
    } else if (state === "disconnected" || state === "failed") {
      this.#setState("lost");
      if (state === "failed") {
        this.#report(new CallError("media_failed", "No media connection to the server could be made or kept"));
      }
    } else {
      this.#emitState();
    }
  }

  // Negotiation. One step at a time; the client's offer wins over the server's.

  #step(name, run) {
    const result = this.#steps.then(async () => {
      if (this.#state === "closed" || !this.#pc) return;
      await run();
    });
    this.#steps = result.catch((error) => {
      this.#log("error", `${name} failed`, { error: String(error) });
    });
    return result;
  }

  /** Asks for an offer; resolves when the server has answered one that contains every change made so far. */
  #negotiated() {
    return new Promise((resolve, reject) => {
      this.#offerWaiters.push({ resolve, reject, inOffer: null });
      this.#negotiationWanted = true;
      this.#scheduleOffer(0);
    });
  }

  #scheduleOffer(delay) {
    if (this.#negotiationTimer !== null || this.#outstandingOffer !== null || this.#state === "closed") return;
    const gap = Math.max(delay, this.#lastOfferAt + OFFER_GAP_MS - performance.now(), 0);
    const go = () => {
      this.#negotiationTimer = null;
      this.#step("offer", () => this.#makeOffer()).catch((error) => {
        this.#settleOffers(toCallError(error));
      });
    };
    // Changes of the same turn share an offer.
    this.#negotiationTimer = setTimeout(go, gap);
  }

  async #makeOffer() {
    const pc = this.#pc;
    if (!this.#negotiationWanted || this.#outstandingOffer !== null) return;
    if (pc.signalingState !== "stable") {
      this.#log("info", "offer waits", { signalingState: pc.signalingState });
      return;
    }
    this.#negotiationWanted = false;
    this.#lastOfferAt = performance.now();
    const id = `o${this.#nextRequest++}`;
    for (const waiter of this.#offerWaiters) waiter.inOffer ??= id;
    await pc.setLocalDescription(await pc.createOffer());
    this.#outstandingOffer = id;
    this.#offerTimer = setTimeout(() => {
      this.#onOfferRefused(new CallError("timeout", "The server did not answer an offer", { request: "offer" }));
    }, OFFER_TIMEOUT_MS);
    const tracks = [];
    for (const { transceiver, source, name } of this.#publications) {
      if (transceiver?.mid) tracks.push(name ? { mid: transceiver.mid, source, name } : { mid: transceiver.mid, source });
    }
    const { type, sdp } = pc.localDescription;
    this.#send("offer", { sdp: { type, sdp }, tracks }, { id });
    const held = this.#localCandidates ?? [];
    this.#localCandidates = null;
    for (const candidate of held) this.#sendCandidate(candidate);
  }

  #onAnswer(id, description) {
    this.#step("answer", async () => {
      if (this.#outstandingOffer === null || (id !== undefined && id !== this.#outstandingOffer)) {
        this.#log("warn", "an answer to no offer of ours", { id, outstanding: this.#outstandingOffer });
        return;
      }
      const offer = this.#outstandingOffer;
      clearTimeout(this.#offerTimer);
      this.#requests.delete(offer);
      try {
        await this.#pc.setRemoteDescription(asDescription("answer", description));
      } catch (error) {
        this.#outstandingOffer = null;
        await this.#rollback();
        throw new CallError("bad_answer", `The server's answer cannot be used: ${error.message}`, { cause: error });
      }
      this.#outstandingOffer = null;
      await this.#flushCandidates();
      for (const publication of this.#publications) {
        if (publication.transceiver) this.#applyBitrate(publication);
      }
      this.#settleOffers(null, offer);
      if (this.#negotiationWanted) this.#scheduleOffer(0);
    }).catch((error) => {
      this.#settleOffers(toCallError(error));
      this.#report(toCallError(error));
    });
  }

  /** The server does not want an offer: it is rolled back; one that failed for a passing reason is made again. */
  #onOfferRefused(error) {
    const offer = this.#outstandingOffer;
    clearTimeout(this.#offerTimer);
    this.#step("rollback", async () => {
      if (this.#outstandingOffer !== offer || offer === null) return;
      this.#requests.delete(offer);
      await this.#rollback();
      this.#outstandingOffer = null;
      const passing = error.code === "rate_limited";
      if (passing) {
        for (const waiter of this.#offerWaiters) {
          if (waiter.inOffer === offer) waiter.inOffer = null;
        }
        this.#negotiationWanted = true;
        this.#scheduleOffer(OFFER_RETRY_MS);
      } else {
        this.#settleOffers(error, offer);
        this.#report(error);
        if (this.#negotiationWanted) this.#scheduleOffer(OFFER_RETRY_MS);
      }
    }).catch((failure) => this.#report(toCallError(failure)));
  }

  /** Back to stable, whoever's offer is pending; without that nothing could be negotiated any more. */
  async #rollback() {
    const state = this.#pc.signalingState;
    if (state === "have-local-offer") await this.#pc.setLocalDescription({ type: "rollback" });
    if (state === "have-remote-offer") await this.#pc.setRemoteDescription({ type: "rollback", sdp: "" });
  }

  #settleOffers(error, offer) {
    const rest = [];
    for (const waiter of this.#offerWaiters) {
      if (offer !== undefined && waiter.inOffer !== offer) {
        rest.push(waiter);
      } else if (error) {
        waiter.reject(error);
      } else {
        waiter.resolve();
      }
    }
    this.#offerWaiters = rest;
  }

  #onServerOffer(id, description) {
    this.#step("server offer", async () => {
      const pc = this.#pc;
      if (this.#outstandingOffer !== null || pc.signalingState !== "stable") {
        this.#log("info", "glare: the server's offer is ignored, ours is under way", { id });
        return;
      }
      try {
        await pc.setRemoteDescription(asDescription("offer", description));
        await this.#flushCandidates();
        await pc.setLocalDescription(await pc.createAnswer());
      } catch (error) {
        await this.#rollback();
        throw new CallError("bad_offer", `The server's offer cannot be used: ${error.message}`, { cause: error });
      }
      const { type, sdp } = pc.localDescription;
      this.#localCandidates = null;
      this.#send("answer", { sdp: { type, sdp } }, { id });
      if (this.#negotiationWanted) this.#scheduleOffer(0);
    }).catch((error) => this.#report(toCallError(error)));
  }

  #sendCandidate(candidate) {
    if (this.#localCandidates !== null) {
      this.#localCandidates.push(candidate);
      return;
    }
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#send("ice-candidate", { candidate: candidate && candidate.candidate !== "" ? candidate.toJSON() : null });
  }

  #onCandidate(candidate) {
    this.#remoteCandidates.push(candidate ?? null);
    this.#step("candidate", () => this.#flushCandidates()).catch(() => {});
  }

  async #flushCandidates() {
    if (!this.#pc.remoteDescription) return;
    for (const candidate of this.#remoteCandidates.splice(0)) {
      const init = typeof candidate === "string" ? { candidate, sdpMLineIndex: 0 } : candidate;
      try {
        await this.#pc.addIceCandidate(init ?? undefined);
      } catch (error) {
        this.#log("info", "a candidate of the server was not accepted", { candidate, error: String(error) });
      }
    }
  }

  // Telling

  #setState(state) {
    if (this.#state === state || this.#state === "closed") return;
    this.#state = state;
    this.#log("info", `state ${state}`);
    this.#emitState();
  }

  #emitState() {
    this.#emit("connection-state", {
      state: this.#state,
      signaling: signalingState(this.#socket),
      media: this.#pc?.connectionState ?? "new",
    });
  }

  #report(error) {
    const failure = toCallError(error);
    if (this.#state === "closed") return;
    this.#emit("error", { code: failure.code, message: failure.message, request: failure.request, error: failure });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
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
 * The video codecs that calls use. Browsers list many more (4:4:4 profiles, H.264 without fragmentation); each costs
 * lines in every m-line of every offer.
 */
function callCodecs(side) {
  const codecs = side.getCapabilities?.("video")?.codecs ?? [];
  return codecs.filter(({ mimeType, sdpFmtpLine = "" }) => {
    switch (mimeType.toLowerCase()) {
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

/** Retransmission and error correction: no pictures of their own. */
function isHelper({ mimeType }) {
  return /\/(rtx|red|ulpfec|flexfec-03)$/i.test(mimeType);
}

function isServer(message) {
  return message.userId === SFU || message.userId === undefined || message.userId === null;
}

function signalingState(socket) {
  return ["connecting", "open", "closing", "closed"][socket?.readyState] ?? "new";
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
