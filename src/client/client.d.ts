/**
 * Types of the browser SDK of WebRTC Engine (`client.js`).
 *
 * @module client
 */

/** Version of the module; the server that serves it speaks the same protocol. */
export const VERSION: string;

/** Close codes of the signaling socket. */
export const CloseCode: {
  readonly LEFT: 1000;
  readonly GOING_AWAY: 1001;
  readonly ABNORMAL: 1006;
  readonly POLICY: 1008;
  readonly KICKED: 4001;
  readonly CALL_ENDED: 4002;
  readonly REPLACED: 4003;
  readonly TOKEN_EXPIRED: 4004;
};

export type Kind = "audio" | "video";
export type Source = "camera" | "microphone" | "screen" | "screen-audio";
export type Role = "admin" | "host" | "moderator" | "participant" | "viewer";
export type Json = null | boolean | number | string | Json[] | { [member: string]: Json };

/**
 * - `new`: not connected yet
 * - `connecting`: the socket is being opened, or the join is under way
 * - `waiting`: in the lobby
 * - `joined`: in the call; media is not connected yet
 * - `connected`: media flows
 * - `reconnecting`: the socket or the media connection broke and is being made again
 * - `closed`: over; a new `Call` is needed
 */
export type CallState = "new" | "connecting" | "waiting" | "joined" | "connected" | "reconnecting" | "closed";

/** Wishes of the server for what is sent. Bitrates in bits per second. */
export interface Encoding {
  audio?: { bitrate?: number; codec?: string };
  video?: {
    bitrate?: { min?: number; max?: number };
    codec?: string;
    framerate?: number;
    width?: number;
    height?: number;
  };
}

export interface CallOptions {
  /** A JSON Web Token for this server; may be left out where there is `getToken`. */
  token?: string;
  /**
   * Gives a fresh token: asked when there is none, when the last one was refused or expires, and at `token-expiring`.
   * With it a call outlives its first token.
   */
  getToken?: () => string | Promise<string>;
  /** The call's id. */
  roomId: string;
  /** Server (`https://calls.example`) or socket address; the page's own server by default. */
  url?: string;
  /** Name the others see; the token's by default. */
  displayName?: string;
  /** Anything the others should know; at most 4 KiB. */
  metadata?: Json;
  /** Camera and microphone to send from the start. */
  localStream?: MediaStream;
  /**
   * Opens camera and microphone while joining, and sends them as soon as both are there: the quickest way into a call.
   * What cannot be opened is an `error` event; one is in the call all the same.
   */
  capture?: boolean | { audio?: boolean | MediaTrackConstraints; video?: boolean | MediaTrackConstraints };
  /** `false`: a lost socket ends the call. */
  reconnect?: boolean;
  /** How long to try before a call is given up as lost; 30 s by default, as long as the server waits. */
  reconnectTimeoutMs?: number;
  /** Join with microphone or camera muted. */
  muted?: { audio?: boolean; video?: boolean };
  /** Sends video with this codec only, e.g. `"VP9"`; the server's first choice by default. */
  videoCodec?: string;
  /**
   * Cameras are sent in several sizes (VP8, H.264: simulcast `l`, `m`, `h`; VP9, AV1: one scalable stream) unless this is
   * `false`; small captures in fewer. The server says which of them somebody watches, and only those are sent.
   */
  simulcast?: boolean;
  /** Transforms of encoded media. */
  e2ee?: E2ee;
  /** `false`: no data channels, and so no `sendMessage` and no `message`. */
  dataChannels?: boolean;
  /** Instead of those the server names. */
  iceServers?: RTCIceServer[];
  /** `"relay"` sends everything through TURN. */
  iceTransportPolicy?: RTCIceTransportPolicy;
  /**
   * How many tracks can be received at a time: 3 voices and 9 pictures by default, at most 16 of each. In larger calls
   * the server fills them with whoever speaks, and with those that are pinned or attached.
   */
  slots?: { audio?: number; video?: number };
  /** Receives every step; the default shows warnings, and everything when `localStorage.debug` holds `webrtc`. */
  log?: (level: "debug" | "info" | "warn" | "error", text: string, data?: unknown) => void;
}

/**
 * End-to-end encryption by the application: called once for every sender and every receiver that is made, before any
 * frame passes. Set an `RTCRtpScriptTransform`, or use `createEncodedStreams()` with `encodedInsertableStreams`.
 *
 * The server forwards and never decodes, but it has to read where a picture begins. So a transform leaves the codec's
 * header clear: VP8 the first 10 bytes of a key frame and the first 3 of others; H.264 parameter sets whole, of other NAL
 * units the start code and the first 4 bytes, making no new start codes; Opus the first byte. VP9 needs nothing, its
 * header is no part of the frame; AV1 all OBU headers with their sizes, and whole the sequence header.
 *
 * An m-line is used again for other participants, so `info` is live: ask it at each frame, or hand a worker the news of
 * `track-subscribed` by `mid`. With `e2ee` audio is sent without redundancy, which the server would have to take apart.
 * A sender whose hook throws is not used; the publication fails with `e2ee_failed`.
 */
export interface E2ee {
  sender?(sender: RTCRtpSender, info: { readonly kind: Kind; readonly mid: string | null; readonly source: Source | null }): void;
  receiver?(
    receiver: RTCRtpReceiver,
    info: {
      readonly kind: Kind;
      readonly mid: string | null;
      /** Whose media it is at the moment. */
      readonly userId: string | null;
      readonly trackId: string | null;
      readonly source: Source | null;
    },
  ): void;
  /** For `createEncodedStreams()`, which only connections made for it have. */
  encodedInsertableStreams?: boolean;
}

/** One way to receive a track. */
export interface Layer {
  /** Name of the simulcast encoding. */
  rid?: string;
  spatial: number;
  temporal: number;
  /** Pixels. */
  width?: number;
  height?: number;
  /** Frames per second. */
  framerate?: number;
  /** Bits per second of all that is received for it. */
  bitrate?: number;
}

/** Something a participant publishes. */
export interface TrackInfo {
  trackId: string;
  kind: Kind;
  source: Source;
  /** Of video, ascending in quality, as far as known. */
  layers: Layer[];
  /** The media, while a slot carries it. */
  track: MediaStreamTrack | null;
  mid: string | null;
  /** What the server sends of it now; `null` when that is not known, or nothing. */
  layer: Layer | null;
  /** The server sends no pictures of it for the time being. */
  paused: boolean;
  pausedReason: LayerReason | null;
}

/** Why another layer is sent: what the network takes, what was wished for, or what the publisher has. */
export type LayerReason = "bandwidth" | "wish" | "source";

/** A wish for what to receive; see {@link Call.setSubscription}. */
export interface Wishes {
  quality?: "low" | "medium" | "high";
  /** Pixels. */
  maxWidth?: number;
  maxHeight?: number;
  maxFramerate?: number;
  /** Greater is more important; 0 by default. */
  priority?: number;
  paused?: boolean;
}

/** An element that shows somebody; made by {@link Call.attach}. */
export interface Attachment {
  readonly element: HTMLMediaElement;
  readonly userId: string;
  readonly source: Source;
  /** Shows somebody else or another source, or changes how much it matters. */
  update(change: { userId?: string; source?: Source; priority?: number }): void;
  /** Takes the media out of the element; the server is not asked for a size any more. */
  detach(): void;
}

export class CallError extends Error {
  constructor(code: string, message?: string, more?: { cause?: unknown; request?: string });
  /**
   * Stable and machine-readable: the server's own (`invalid_token`, `forbidden`, `call_full`, `rate_limited`, …) or
   * - of connecting: `unreachable`, `socket_refused`, `timeout`, `bad_url`, `token_failed`, `insecure_context`
   * - of the end: `lost`, `kicked`, `call_ended`, `replaced`, `token_expired`, `server_going_away`, `policy`, `closed`
   * - of media: `media_failed`, `bad_answer`, `bad_offer`, `already_published`, `not_published`, `wrong_kind`,
   *   `not_allowed`, `not_supported`, `e2ee_failed`
   * - of messages: `not_connected`, `too_large`, `too_fast`, `channel_closed`, `channel_failed`
   * - of ourselves: `internal`
   */
  readonly code: string;
  /** Type of the message that was refused. */
  readonly request: string | null;
}

export class Participant {
  constructor(userId: string, local?: boolean);
  readonly userId: string;
  readonly local: boolean;
  readonly displayName: string;
  readonly role: Role;
  readonly metadata: any;
  readonly muted: { audio: boolean; video: boolean };
  /** `"lost"` while the server waits for the participant to come back. */
  readonly connection: "ok" | "lost";
  /** Audio level of the last `active-speaker`, 0 to 1; 0 when silent. */
  readonly level: number;
  /** How good the connection is, 1 (bad) to 5; `null` before the server has said. */
  readonly quality: number | null;
  readonly qualityReason: QualityReason | null;
  /** What the participant publishes, by track id. */
  readonly tracks: ReadonlyMap<string, TrackInfo>;
  /** What is received now (of oneself: what is sent), one stream per source. */
  readonly streams: ReadonlyMap<Source, MediaStream>;
  stream(source?: Source): MediaStream | null;
  /** Of oneself only. */
  readonly permissions?: any;
}

export type QualityReason = "good" | "packet-loss" | "latency" | "jitter" | "bandwidth" | "lost";

interface ParticipantDetail {
  participant: Participant;
  userId: string;
}

interface SubscriptionDetail {
  participant: Participant;
  userId: string;
  trackId: string;
  kind: Kind;
  source: Source;
  mid: string;
  track: MediaStreamTrack;
}

export interface CallEventMap {
  "connection-state": CustomEvent<{
    state: CallState;
    signaling: "new" | "connecting" | "open" | "closing" | "closed";
    media: RTCPeerConnectionState;
  }>;
  /** Something is lost: the socket (`signaling`), the media connection, or both. The SDK is at it. */
  reconnecting: CustomEvent<{ signaling: boolean; media: boolean }>;
  /** All is back. `resumed` is false where the server had to begin anew; others have seen a leave and a join then. */
  reconnected: CustomEvent<{ resumed: boolean; lostForMs: number }>;
  /** The data of the server's `joined`; once, also after reconnections. */
  joined: CustomEvent<any>;
  /** In the lobby, until somebody admits us. */
  waiting: CustomEvent<any>;
  /** `present` is true for those who were there before. */
  "participant-joined": CustomEvent<ParticipantDetail & { present: boolean }>;
  "participant-left": CustomEvent<ParticipantDetail & { reason: string | null }>;
  "participant-updated": CustomEvent<ParticipantDetail>;
  /** Somebody's connection was lost, or is back. After 30 s of `lost` they leave. */
  "participant-connection": CustomEvent<ParticipantDetail & { connection: "ok" | "lost" }>;
  /** A slot carries this track now. */
  "track-subscribed": CustomEvent<SubscriptionDetail & { stream: MediaStream }>;
  /** A slot does not carry this track any longer; `participant` is null when they have gone. */
  "track-unsubscribed": CustomEvent<Omit<SubscriptionDetail, "participant"> & { participant: Participant | null }>;
  /** A camera was unplugged, or the browser's own button ended a screen share. */
  "local-track-ended": CustomEvent<{ track: MediaStreamTrack; source: Source; kind: Kind }>;
  /** Somebody's microphone or camera was muted or unmuted; `by` when somebody else did it. */
  muted: CustomEvent<{ userId: string; kind: Kind; muted: boolean; by?: string | null; participant: Participant }>;
  /** A moderator lifted a mute; it is up to the user to speak again. */
  "unmute-allowed": CustomEvent<{ kind: Kind; by: string | null }>;
  /** Loudest first. */
  "active-speaker": CustomEvent<{ speakers: { userId: string; level: number | null }[] }>;
  /** How good somebody's connection is, one's own included; when it changes. */
  quality: CustomEvent<ParticipantDetail & { quality: number; reason: QualityReason | null }>;
  /**
   * One's own connection is in trouble, or (`active: false`) not any longer. `value`: the share that is lost, milliseconds,
   * or bits per second.
   */
  "quality-warning": CustomEvent<{
    kind: "packet-loss" | "latency" | "bandwidth";
    direction: "send" | "receive";
    value: number;
    active: boolean;
  }>;
  /** Another layer of a track is received; `layer: null, paused: true` is none for the time being. */
  "layer-changed": CustomEvent<
    ParticipantDetail & {
      trackId: string;
      mid: string;
      source: Source;
      layer: Layer | null;
      paused: boolean;
      reason: LayerReason | null;
    }
  >;
  chat: CustomEvent<{ userId: string; text: string; to: string | null; participant: Participant | null }>;
  data: CustomEvent<{ userId: string; value: any; to: string | null; participant: Participant | null }>;
  /** Over a data channel; `data` is a `Uint8Array` when bytes were sent. `to` is null for bytes and for all. */
  message: CustomEvent<{
    userId: string;
    data: any;
    lossy: boolean;
    to: string | null;
    channel: string;
    participant: Participant | null;
  }>;
  error: CustomEvent<{ code: string; message: string; request: string | null; error: CallError }>;
  /** The last event. `error` is null after `leave()`, else why it ended (see {@link CallError.code}). */
  closed: CustomEvent<{ code: number; reason: string; error: string | null }>;
  kicked: CustomEvent<any>;
  "room-closed": CustomEvent<any>;
  "room-updated": CustomEvent<any>;
  "server-draining": CustomEvent<any>;
  "token-expiring": CustomEvent<any>;
  /** Everybody is told before anything is recorded. `by` is null when the server's settings want it. */
  "recording-started": CustomEvent<{ recordingId: string; status: "recording" | "paused"; by: string | null }>;
  "recording-paused": CustomEvent<{ recordingId: string; status: "paused" }>;
  "recording-resumed": CustomEvent<{ recordingId: string; status: "recording" }>;
  /** `reason`: `requested`, `call-ended`, `server-stopped`, `limit`, `disk-full`, `write-failed`; null: not known. */
  "recording-stopped": CustomEvent<{ recordingId: string; reason: string | null }>;
  /** All files are there (`completed`), or never will be (`failed`). */
  "recording-completed": CustomEvent<{
    recordingId: string;
    status: "completed" | "failed";
    durationMs: number | null;
    error?: string;
  }>;
}

/** One participation in one call. */
export class Call extends EventTarget {
  /** `new Call(options)` and `connect()` in one step. */
  static connect(options: CallOptions): Promise<Call>;

  constructor(options: CallOptions);

  readonly state: CallState;
  readonly roomId: string;
  /** Oneself. */
  readonly local: Participant;
  /** The others, by user id. */
  readonly participants: ReadonlyMap<string, Participant>;
  /** The data of the server's `joined`, or `null` before. */
  readonly joined: any;
  /** What is recorded of the call, or `null`. */
  readonly recording: { recordingId: string; status: "recording" | "paused" } | null;
  readonly encoding: Encoding | null;
  /** The media connection of this moment; a reconnection may replace it. */
  readonly peerConnection: RTCPeerConnection | null;

  /** Joins; resolves when the server has answered the first offer. Rejects with a {@link CallError}. */
  connect(): Promise<void>;
  /** Renews the token of a running session; the server replaces what one may do. `getToken` does it by itself. */
  setToken(token: string): void;
  /** Leaves at once. Local tracks are stopped unless told otherwise. */
  leave(options?: { stopTracks?: boolean }): Promise<void>;

  /** Opens camera and microphone with the server's wishes as defaults. */
  capture(constraints?: {
    audio?: boolean | MediaTrackConstraints;
    video?: boolean | MediaTrackConstraints;
  }): Promise<MediaStream>;
  /** Sends tracks; resolves when the server has answered the offer that holds them. */
  publish(
    media: MediaStream | MediaStreamTrack | MediaStreamTrack[],
    options?: { source?: Source; name?: string; videoCodec?: string; simulcast?: boolean },
  ): Promise<void>;
  /** Stops sending tracks (or what comes from a source); the tracks themselves go on. */
  unpublish(media: MediaStream | MediaStreamTrack | MediaStreamTrack[] | Source): Promise<void>;
  /** Sends another track of the same kind in the place of one that is sent, without negotiation. */
  replaceTrack(oldTrack: MediaStreamTrack, newTrack: MediaStreamTrack): Promise<void>;

  /**
   * Lets the user choose a screen, window or tab and sends it, with its sound unless `audio` is `false` or the browser has
   * none to give. Rejects with `not_allowed` when the user decides against it. `local-track-ended` tells when the
   * browser's own bar ended it.
   */
  shareScreen(options?: {
    audio?: boolean | MediaTrackConstraints;
    video?: boolean | MediaTrackConstraints;
    name?: string;
  }): Promise<MediaStream>;
  stopScreenShare(): Promise<void>;

  setMicrophoneMuted(muted: boolean): void;
  setCameraMuted(muted: boolean): void;
  /** Mutes somebody else; needs the right to moderate. */
  muteParticipant(userId: string, kind?: Kind): void;

  /** Needs the right to record. Resolves once everybody was told and the recording began. */
  startRecording(options?: { audioOnly?: boolean; participants?: string[] }): Promise<{ recordingId: string }>;
  stopRecording(): Promise<{ recordingId: string }>;
  /** What happens until it is resumed is not in the recording. */
  pauseRecording(): Promise<{ recordingId: string }>;
  resumeRecording(): Promise<{ recordingId: string }>;

  /** To all, or to one participant. */
  chat(text: string, options?: { to?: string }): void;
  /** Any JSON value of at most 16 KiB, to all or to one participant, by way of the signaling socket. */
  sendData(value: Json, options?: { to?: string }): void;
  /**
   * Sends over a data channel: JSON values, text and bytes of up to 64 KiB, to all or to one participant.
   *
   * Reliable messages arrive in order. The promise resolves when the message is on its way, so whoever awaits it sends no
   * faster than the network takes it; more than 1 MiB of waiting messages is refused (`too_fast`). They wait out
   * reconnections. Lossy ones are sent at once (`true`) or not at all (`false`). `channel` is another label, for messages
   * that should not wait for others; there may be 16.
   */
  sendMessage(
    data: Json | ArrayBuffer | ArrayBufferView,
    options?: { to?: string; lossy?: boolean; channel?: string },
  ): Promise<boolean>;
  /** Bytes of messages that wait for the network. */
  readonly bufferedAmount: { reliable: number; lossy: number };
  /**
   * What one wishes to receive of a track or of a participant. It takes the place of what was said before, goes before what
   * attached elements need, and outlives reconnections. A wish about an audio track or a user *pins* them: they are heard
   * even when they are not among the loudest.
   */
  setSubscription(target: { trackId: string } | { userId: string }, wishes?: Wishes): void;
  /**
   * Shows a source of a participant in a `<video>` (or a voice in an `<audio>`) element, and keeps it there whatever slot it
   * comes by. The server is told how large a video is seen, and that it need not send what is out of sight. `hints: false`
   * tells it nothing; `priority` as in {@link Wishes}.
   */
  attach(
    element: HTMLMediaElement,
    what: { userId: string; source?: Source; priority?: number; hints?: boolean },
  ): Attachment;

  /** Report of the media connection; an empty one before there is a connection. */
  getStats(): Promise<RTCStatsReport>;
  /** The server's view of one's own connection: round-trip time (ms), estimate (bit/s), what is sent and received by track. */
  serverStats(): Promise<{ rtt?: number; estimate?: number; sent: any[]; received: any[] }>;

  addEventListener<K extends keyof CallEventMap>(
    type: K,
    listener: (this: Call, event: CallEventMap[K]) => any,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof CallEventMap>(
    type: K,
    listener: (this: Call, event: CallEventMap[K]) => any,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** Opens camera and microphone, with `encoding` as defaults for size and frame rate. */
export function capture(
  constraints?: { audio?: boolean | MediaTrackConstraints; video?: boolean | MediaTrackConstraints },
  encoding?: Encoding | null,
): Promise<MediaStream>;
