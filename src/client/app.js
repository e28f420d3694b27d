/** The built-in page: preview, join form, grid of participants, chat. All media and signaling is `client.js`. */

import { Call, CallError, capture } from "/client.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const fragment = fragmentParameters(location.hash);

/** How much pictures matter to the server's choice: what is large is what somebody looks at. */
const PRIORITY = { large: 10, screen: 5, other: 0 };
/** Warnings about one's own connection that hold at present, by kind and direction. */
const warnings = new Map();

/** What has been opened before joining, and the call afterwards. */
const state = {
  /** @type {MediaStreamTrack|null} */ mic: null,
  /** @type {MediaStreamTrack|null} */ cam: null,
  micOn: true,
  camOn: true,
  /** @type {Call|null} */ call: null,
  /** Key of the tile that the user wants large. */
  /** @type {string|null} */ pinned: null,
  /** Key of a shared screen that the user does not want large. */
  /** @type {string|null} */ unfocused: null,
  /** A token that came with the link; kept out of the address bar. */
  token: query.get("token") ?? fragment.get("token"),
  unread: 0,
};

/** Tiles by `userId/source`; audio elements by `userId/trackId`. */
/** @type {Map<string, Tile>} */
const tiles = new Map();
const sounds = new Map();

start();

function start() {
  $("name").value = query.get("name") ?? stored("name") ?? "";
  $("room").value = roomFromAddress() ?? randomRoom();
  if (state.token) hideTokenFromAddress();
  wirePrejoin();
  wireCall();
  openDevices();
}

// Address, identity, token

function fragmentParameters(hash) {
  const text = hash.replace(/^#/, "");
  // `#room` alone, without a name, is accepted as well.
  return new URLSearchParams(/[=&]/.test(text) || text === "" ? text : `room=${text}`);
}

function roomFromAddress() {
  const room = query.get("room") ?? fragment.get("room");
  return room && /^[A-Za-z0-9_-]{1,64}$/.test(room) ? room : null;
}

function randomRoom() {
  const one = ["amber", "brave", "calm", "clear", "early", "green", "lucky", "quiet", "silver", "sunny", "swift", "warm"];
  const two = ["brook", "cedar", "cloud", "field", "heron", "lake", "maple", "meadow", "otter", "river", "robin", "stone"];
  // Names are for people; the digits keep strangers from meeting by accident.
  const random = crypto.getRandomValues(new Uint32Array(3));
  const tail = random[2].toString(36).padStart(6, "0").slice(-6);
  return `${one[random[0] % one.length]}-${two[random[1] % two.length]}-${tail}`;
}

function hideTokenFromAddress() {
  const url = new URL(location.href);
  url.searchParams.delete("token");
  fragment.delete("token");
  url.hash = fragment.size ? fragment.toString() : "";
  history.replaceState(null, "", url);
}

function stored(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(`webrtc-engine.${key}`, value);
    return localStorage.getItem(`webrtc-engine.${key}`);
  } catch {
    return null;
  }
}

/** One user per tab: two tabs are two people, a reloaded tab is the same one. */
function ownUserId() {
  if (query.get("user")) return query.get("user");
  const fresh = `u-${Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  try {
    const known = sessionStorage.getItem("webrtc-engine.user");
    if (known) return known;
    sessionStorage.setItem("webrtc-engine.user", fresh);
  } catch {
    // Storage may be forbidden: then a reload is somebody new.
  }
  return fresh;
}

/** The token of the link or the field, else one from a server in development mode. */
async function tokenFor(name, roomId) {
  if (state.token) return state.token;
  const typed = $("token").value.trim();
  if (typed) return typed;
  const body = { userId: ownUserId(), name, roomId };
  if (query.get("role")) body.role = query.get("role");
  const code = $("code").value.trim();
  if (code) body.code = code;
  let response;
  try {
    response = await fetch("/dev/token", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch (error) {
    throw new CallError("unreachable", undefined, { cause: error });
  }
  if (response.ok) return (await response.json()).token;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 403 && problem.code === "code_required") {
    const again = code !== "";
    reveal("code");
    throw new CallError(again ? "code_wrong" : "code_required");
  }
  if (response.status === 404) {
    reveal("token");
    throw new CallError("token_required");
  }
  throw new CallError(problem.code ?? "token_failed", problem.detail ?? problem.title);
}

function reveal(field) {
  $(`${field}-field`).hidden = false;
  $(field).focus();
}

// Before joining

function wirePrejoin() {
  $("preview-mic").addEventListener("click", () => toggleMic());
  $("preview-cam").addEventListener("click", () => toggleCam());
  $("mic-select").addEventListener("change", () => openMicrophone($("mic-select").value));
  $("cam-select").addEventListener("change", () => openCamera($("cam-select").value));
  $("name").addEventListener("input", drawPreview);
  $("join-form").addEventListener("submit", (event) => {
    event.preventDefault();
    join();
  });
  $("notice-close").addEventListener("click", () => notice(null));
  navigator.mediaDevices?.addEventListener?.("devicechange", listDevices);
  ($("name").value ? $("join") : $("name")).focus();
}

/** Asks for both at once (one question to the user); if that fails, for each alone, so that one of them is enough. */
async function openDevices() {
  drawPreview();
  try {
    const stream = await capture({ audio: wish("mic"), video: wish("cam") });
    adopt(stream.getAudioTracks()[0], stream.getVideoTracks()[0]);
    deviceNote("");
  } catch (error) {
    if (error.code === "insecure_context" || error.name === "NotAllowedError") {
      deviceNote(explainDevice(error));
    } else {
      const found = await Promise.allSettled([
        capture({ audio: wish("mic"), video: false }),
        capture({ audio: false, video: wish("cam") }),
      ]);
      adopt(found[0].value?.getAudioTracks()[0], found[1].value?.getVideoTracks()[0]);
      deviceNote(explainMissing(found[0].reason, found[1].reason));
    }
  }
  await listDevices();
  drawPreview();
}

function wish(kind) {
  const deviceId = stored(kind);
  return deviceId ? { deviceId: { ideal: deviceId } } : true;
}

function adopt(mic, cam) {
  if (mic) {
    state.mic = mic;
    startMeter(mic);
  }
  if (cam) state.cam = cam;
}

async function openMicrophone(deviceId) {
  try {
    const stream = await capture({ audio: { deviceId: { exact: deviceId } }, video: false });
    stored("mic", deviceId);
    await swap("mic", stream.getAudioTracks()[0]);
    startMeter(state.mic);
    deviceNote("");
  } catch (error) {
    deviceNote(explainDevice(error));
  }
  drawPreview();
}

async function openCamera(deviceId) {
  // Many cameras can be open only once.
  state.cam?.stop();
  try {
    const stream = await capture({ audio: false, video: { deviceId: { exact: deviceId } } });
    stored("cam", deviceId);
    await swap("cam", stream.getVideoTracks()[0]);
    deviceNote("");
  } catch (error) {
    deviceNote(explainDevice(error));
  }
  drawPreview();
}

async function swap(which, track) {
  state[which]?.stop();
  state[which] = track;
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.().catch(() => [])) ?? [];
  for (const [select, kind, track] of [
    [$("mic-select"), "audioinput", state.mic],
    [$("cam-select"), "videoinput", state.cam],
  ]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId !== "");
    select.replaceChildren(
      ...found.map((device, index) => {
        const label = device.label || `${kind === "audioinput" ? "Microphone" : "Camera"} ${index + 1}`;
        return new Option(label, device.deviceId);
      }),
    );
    if (found.length === 0) select.append(new Option("None", ""));
    select.disabled = found.length === 0;
    const current = track?.getSettings?.().deviceId;
    if (current && found.some((device) => device.deviceId === current)) select.value = current;
  }
}

function toggleMic(on = !state.micOn) {
  state.micOn = on;
  if (state.mic) state.mic.enabled = on;
  state.call?.setMicrophoneMuted(!on || !state.mic);
  drawPreview();
  drawControls();
}

function toggleCam(on = !state.camOn) {
  state.camOn = on;
  if (state.cam) state.cam.enabled = on;
  state.call?.setCameraMuted(!on || !state.cam);
  drawPreview();
  drawControls();
}

function drawPreview() {
  const shows = Boolean(state.cam) && state.camOn;
  const video = $("preview-video");
  if (state.cam && video.srcObject?.getVideoTracks()[0] !== state.cam) video.srcObject = new MediaStream([state.cam]);
  video.hidden = !shows;
  $("preview-avatar").hidden = shows;
  $("preview-avatar").textContent = initials($("name").value);
  press($("preview-mic"), Boolean(state.mic) && state.micOn, state.mic ? "Microphone" : "No microphone");
  press($("preview-cam"), Boolean(state.cam) && state.camOn, state.cam ? "Camera" : "No camera");
  $("preview-mic").disabled = !state.mic;
  $("preview-cam").disabled = !state.cam;
}

function press(button, on, label) {
  button.setAttribute("aria-pressed", String(on));
  button.setAttribute("aria-label", label);
  button.title = label;
}

function deviceNote(text) {
  $("preview-note").textContent = text;
}

let meter = null;

/** Shows that the microphone hears something. Nothing is played. */
function startMeter(track) {
  stopMeter();
  if (!track || typeof AudioContext === "undefined") return;
  try {
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 512;
    context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const draw = () => {
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
      $("meter-bar").style.setProperty("--level", Math.min(1, Math.sqrt(power) * 4).toFixed(3));
      meter.frame = requestAnimationFrame(draw);
    };
    meter = { context, frame: requestAnimationFrame(draw) };
  } catch {
    // A meter is a comfort.
  }
}

function stopMeter() {
  if (!meter) return;
  cancelAnimationFrame(meter.frame);
  meter.context.close().catch(() => {});
  meter = null;
}

// Joining

async function join() {
  const name = $("name").value.trim();
  const roomId = $("room").value.trim();
  if (!name || !roomId) return;
  stored("name", name);
  notice(null);
  busy("Joining …");
  let call = null;
  try {
    const getToken = () => tokenFor(name, roomId);
    const token = await getToken();
    const tracks = [state.mic, state.cam].filter((track) => track && track.readyState === "live");
    call = new Call({
      token,
      getToken,
      roomId,
      displayName: name,
      localStream: tracks.length ? new MediaStream(tracks) : undefined,
      muted: { audio: !state.mic || !state.micOn, video: !state.cam || !state.camOn },
    });
    state.call = call;
    // For the console, and for tests.
    globalThis.call = call;
    listen(call);
    await call.connect();
  } catch (error) {
    if (call && state.call === call) state.call = null;
    closeScreen();
    busy(null);
    notice(explain(error.code ?? "internal", error.message));
    if (error.code === "invalid_token" && !state.token) reveal("token");
    // A link's token that the server refuses is not tried again.
    if (error.code === "invalid_token") state.token = null;
  }
}

function busy(text) {
  $("join").disabled = text !== null;
  $("join-status").textContent = text ?? "";
}

function enterCall(call) {
  stopMeter();
  busy(null);
  $("call-title").textContent = call.roomId;
  document.title = `${call.roomId} · WebRTC Engine`;
  const url = new URL(location.href);
  if (!fragment.get("room")) {
    url.searchParams.set("room", call.roomId);
    history.replaceState(null, "", url);
  }
  $("prejoin").hidden = true;
  $("call").hidden = false;
  drawTile(call.local, "camera");
  drawControls();
  drawRecording();
  drawStatus();
  $("mic").focus();
}

/** Back to the form, with everything of the call taken down. */
function closeScreen() {
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
  warnings.clear();
  Object.assign(state, { pinned: null, unfocused: null });
  for (const sound of sounds.values()) sound.remove();
  sounds.clear();
  $("hear").hidden = true;
  $("chat-log").replaceChildren();
  showChat(false);
  $("call").hidden = true;
  $("prejoin").hidden = false;
  document.title = "WebRTC Engine";
}

function listen(call) {
  const on = (type, react) =>
    call.addEventListener(type, ({ detail }) => {
      if (state.call === call) react(detail);
    });

  on("waiting", () => busy("Waiting for somebody to let you in …"));
  on("joined", () => enterCall(call));
  on("connection-state", drawStatus);
  on("reconnected", () => notice("You are connected again.", "info"));
  on("quality-warning", ({ kind, direction, active }) => {
    if (active) warnings.set(`${kind} ${direction}`, warningText(kind, direction));
    else warnings.delete(`${kind} ${direction}`);
    drawBanner();
  });
  on("participant-joined", ({ participant, present }) => {
    drawParticipant(participant);
    if (!present) chatEvent(`${participant.displayName} joined`);
    drawStatus();
  });
  on("participant-updated", ({ participant }) => {
    drawParticipant(participant);
    if (participant.local) drawControls();
  });
  on("participant-left", ({ participant }) => {
    for (const [key, tile] of tiles) if (tile.participant === participant) removeTile(key);
    for (const [key, sound] of sounds) {
      if (sound.dataset.userId === participant.userId) {
        sound.remove();
        sounds.delete(key);
      }
    }
    chatEvent(`${participant.displayName} left`);
    drawStatus();
  });
  for (const type of ["quality", "layer-changed"]) on(type, ({ participant }) => drawParticipant(participant));
  on("track-subscribed", (detail) => {
    if (detail.kind === "audio") addSound(detail);
    drawParticipant(detail.participant);
  });
  on("track-unsubscribed", ({ participant, userId, trackId }) => {
    const key = `${userId}/${trackId}`;
    sounds.get(key)?.remove();
    sounds.delete(key);
    if (participant) drawParticipant(participant);
  });
  on("muted", ({ participant, kind, muted, by }) => {
    if (participant.local) {
      if (kind === "audio") state.micOn = !muted;
      else state.camOn = !muted;
      if (by && muted) notice(`${nameOf(by)} turned your ${kind === "audio" ? "microphone" : "camera"} off.`, "info");
      drawControls();
    }
    drawParticipant(participant);
  });
  on("unmute-allowed", ({ kind }) =>
    notice(`You may turn your ${kind === "audio" ? "microphone" : "camera"} on again.`, "info"),
  );
  on("active-speaker", () => {
    for (const tile of tiles.values()) tile.drawSpeaking();
  });
  on("local-track-ended", ({ source }) => {
    if (source === "camera") state.cam = null;
    if (source === "microphone") state.mic = null;
    if (source === "camera" || source === "microphone") notice(`Your ${source} was disconnected.`);
    drawControls();
  });
  on("chat", ({ userId, text, participant }) => {
    if (userId !== call.local.userId) chatLine(participant?.displayName ?? userId, text);
  });
  on("error", ({ code, message }) => notice(explain(code, message)));
  on("server-draining", () => notice(explain("server_draining")));
  on("room-closed", () => notice(explain("call_ended")));
  on("recording-started", () => {
    notice("This call is being recorded.", "info");
    drawRecording();
  });
  on("recording-paused", drawRecording);
  on("recording-resumed", drawRecording);
  on("recording-stopped", ({ reason }) => {
    const failed = { "disk-full": "because the disk is full", "write-failed": "because it could not be written", limit: "since it is as long or large as it may be" };
    notice(failed[reason] ? `The recording was ended ${failed[reason]}.` : "The recording has ended.", failed[reason] ? undefined : "info");
    drawRecording();
  });
  on("recording-completed", ({ status, error }) => {
    if (status === "failed") notice(`The recording failed: ${error ?? "no reason is known"}.`);
  });
  on("closed", ({ error, reason }) => {
    // While connecting, `connect()` itself rejects and `join()` explains.
    if (!call.joined) return;
    state.call = null;
    closeScreen();
    busy(null);
    if (error) notice(explain(error, reason));
    openDevices();
  });
}

function nameOf(userId) {
  return state.call?.participants.get(userId)?.displayName ?? userId;
}

// In the call

function wireCall() {
  $("mic").addEventListener("click", () => toggleMic());
  $("cam").addEventListener("click", () => toggleCam());
  $("screen").addEventListener("click", toggleScreen);
  $("stop-sharing").addEventListener("click", toggleScreen);
  $("record").addEventListener("click", toggleRecording);
  $("leave").addEventListener("click", () => leave());
  $("copy-link").addEventListener("click", copyLink);
  $("hear").addEventListener("click", hear);
  $("chat-toggle").addEventListener("click", () => showChat($("chat").hidden));
  $("chat-close").addEventListener("click", () => {
    showChat(false);
    $("chat-toggle").focus();
  });
  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("chat-text").value.trim();
    if (!text || !state.call) return;
    try {
      state.call.chat(text);
      chatLine("You", text);
      $("chat-text").value = "";
    } catch (error) {
      notice(explain(error.code, error.message));
    }
  });
  if (!navigator.mediaDevices?.getDisplayMedia) $("screen").hidden = true;
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && !$("chat").hidden) {
      showChat(false);
      $("chat-toggle").focus();
    }
    if (!state.call?.joined || typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const shortcuts = {
      m: () => state.mic && toggleMic(),
      v: () => state.cam && toggleCam(),
      s: () => !$("screen").hidden && toggleScreen(),
      c: () => showChat($("chat").hidden),
      r: () => !$("record").hidden && toggleRecording(),
    };
    const run = shortcuts[event.key.toLowerCase()];
    if (!run) return;
    // Else the key would be typed into what opens.
    event.preventDefault();
    run();
  });
  addEventListener("pagehide", () => state.call?.leave());
  new ResizeObserver(sizeTiles).observe($("grid"));
}

async function leave() {
  await state.call?.leave();
}

async function toggleScreen() {
  const { call } = state;
  if (!call) return;
  $("screen").disabled = true;
  try {
    if (isSharing()) await call.stopScreenShare();
    else await call.shareScreen();
  } catch (error) {
    // Closing the browser's dialog is a decision, not a failure.
    if (error.code !== "not_allowed") notice(explain(error.code ?? "internal", error.message));
  }
  $("screen").disabled = false;
  drawControls();
}

function isSharing() {
  return state.call?.local.stream("screen") != null;
}

function inviteLink() {
  const url = new URL(location.pathname, location.origin);
  url.searchParams.set("room", state.call.roomId);
  return url.href;
}

async function copyLink() {
  const link = inviteLink();
  try {
    await navigator.clipboard.writeText(link);
    notice("The invite link is on the clipboard.", "info");
  } catch {
    // Without a secure context or permission the user copies it by hand.
    notice(`The invite link: ${link}`, "info");
  }
}

function drawControls() {
  press($("mic"), Boolean(state.mic) && state.micOn, micLabel());
  press($("cam"), Boolean(state.cam) && state.camOn, camLabel());
  $("mic").disabled = !state.mic;
  $("cam").disabled = !state.cam;
  const sharing = isSharing();
  press($("screen"), sharing, sharing ? "Stop sharing" : "Share screen");
  $("stop-sharing").hidden = !sharing;
  if (state.call?.joined) drawParticipant(state.call.local);
}

function micLabel() {
  if (!state.mic) return "No microphone";
  return state.micOn ? "Mute microphone" : "Unmute microphone";
}

function camLabel() {
  if (!state.cam) return "No camera";
  return state.camOn ? "Turn camera off" : "Turn camera on";
}

/** Everybody sees that a call is recorded; who may record has a button as well. */
function drawRecording() {
  const recording = state.call?.recording ?? null;
  const paused = recording?.status === "paused";
  $("recording").hidden = recording === null;
  $("recording").classList.toggle("paused", paused);
  $("recording-text").textContent = paused ? "Recording paused" : "Recording";
  $("record").hidden = state.call?.local.permissions?.record !== true;
  press($("record"), recording !== null, recording === null ? "Record" : "Stop recording");
}

async function toggleRecording() {
  const { call } = state;
  if (!call || $("record").disabled) return;
  $("record").disabled = true;
  try {
    await (call.recording ? call.stopRecording() : call.startRecording());
  } catch (error) {
    notice(explain(error.code, error.message));
  } finally {
    $("record").disabled = false;
    drawRecording();
  }
}

function drawStatus() {
  const { call } = state;
  if (!call) return;
  const people = call.participants.size + 1;
  const texts = {
    joined: "Connecting media …",
    connected: people === 1 ? "Only you so far" : `${people} in the call`,
    reconnecting: "Reconnecting …",
    waiting: "Waiting to be let in",
  };
  $("call-status").textContent = texts[call.state] ?? "Connecting …";
  drawBanner();
}

/** What is wrong with one's own connection, the gravest thing first. */
function drawBanner() {
  const reconnecting = state.call?.state === "reconnecting";
  const text = reconnecting ? "Connection lost. Reconnecting …" : ([...warnings.values()][0] ?? "");
  $("banner").hidden = text === "";
  $("banner").classList.toggle("busy", reconnecting);
  if ($("banner-text").textContent !== text) $("banner-text").textContent = text;
}

function warningText(kind, direction) {
  if (kind === "packet-loss") return "Your connection loses data: sound and pictures may stutter.";
  if (kind === "latency") return "Your connection is slow to answer: others hear you late.";
  return direction === "send"
    ? "Your connection is slow: others see you less sharply."
    : "Your connection is slow: some pictures are less sharp or paused.";
}

/** One picture in the call: somebody's camera, or a screen they share. */
class Tile {
  constructor(participant, source) {
    const element = $("tile-template").content.firstElementChild.cloneNode(true);
    this.participant = participant;
    this.source = source;
    this.key = tileKey(participant, source);
    this.element = element;
    element.dataset.userId = participant.userId;
    element.dataset.source = source;
    element.classList.toggle("screen", source === "screen");
    element.classList.toggle("mirrored", participant.local && source === "camera");
    this.find(".avatar").style.setProperty("--hue", String(hue(participant.userId)));
    this.find(".pin").addEventListener("click", () => togglePin(this.key));
    element.addEventListener("dblclick", () => togglePin(this.key));
    this.view = state.call.attach(this.find("video"), { userId: participant.userId, source });
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  draw() {
    const { participant, source, element } = this;
    const isCamera = source === "camera";
    const name = participant.local ? `${participant.displayName} (you)` : participant.displayName;
    const label = isCamera ? name : `${name}: screen`;
    this.find(".name").textContent = label;
    this.find(".avatar").textContent = initials(participant.displayName);
    const shows = participant.stream(source) !== null && (!isCamera || !participant.muted.video);
    const silent = isCamera && (participant.muted.audio || !hasMicrophone(participant));
    const lost = participant.connection === "lost";
    const track = [...participant.tracks.values()].find((candidate) => candidate.source === source);
    const starved = shows && !lost && track?.paused === true && track.pausedReason === "bandwidth";
    element.classList.toggle("has-video", shows);
    element.classList.toggle("mic-muted", silent);
    element.classList.toggle("lost", lost);
    element.classList.toggle("starved", starved);
    this.find(".veil").hidden = !lost;
    this.find(".note").hidden = !starved;
    this.find(".note").textContent = starved ? "Picture paused: slow connection" : "";
    const quality = isCamera ? this.drawQuality() : "";
    const facts = [label, silent && "microphone muted", !shows && "no picture", lost && "connection lost", starved && "picture paused"];
    element.setAttribute("aria-label", [...facts, !lost && quality].filter(Boolean).join(", "));
    this.drawSpeaking();
  }

  drawQuality() {
    const { quality, qualityReason } = this.participant;
    const bars = this.find(".bars");
    bars.hidden = quality === null;
    if (quality === null) return "";
    const text = `Connection: ${qualityText(quality, qualityReason)}`;
    bars.dataset.quality = String(quality);
    bars.title = text;
    bars.setAttribute("aria-label", text);
    return quality <= 3 ? text.toLowerCase() : "";
  }

  drawSpeaking() {
    const { level, muted } = this.participant;
    this.element.classList.toggle("speaking", this.source === "camera" && level > 0 && !muted.audio);
  }

  remove() {
    this.view.detach();
    this.element.remove();
  }
}

function qualityText(quality, reason) {
  const grade = ["lost", "very poor", "poor", "fair", "good", "very good"][quality] ?? "unknown";
  const reasons = {
    "packet-loss": "data is lost on the way",
    latency: "slow to answer",
    jitter: "uneven",
    bandwidth: "too little bandwidth",
    lost: "interrupted",
  };
  return quality < 5 && reasons[reason] ? `${grade}, ${reasons[reason]}` : grade;
}

function hasMicrophone(participant) {
  if (participant.local) return participant.streams.has("microphone");
  return [...participant.tracks.values()].some((track) => track.source === "microphone");
}

function tileKey(participant, source) {
  return `${participant.userId}/${source}`;
}

function drawTile(participant, source) {
  const key = tileKey(participant, source);
  let tile = tiles.get(key);
  if (!tile) {
    tile = new Tile(participant, source);
    // A shared screen comes first; oneself comes last.
    const own = tiles.get(tileKey(state.call.local, "camera"));
    if (source === "screen") $("grid").prepend(tile.element);
    else if (own) own.element.before(tile.element);
    else $("grid").append(tile.element);
    tiles.set(key, tile);
    arrange();
  }
  tile.draw();
}

function removeTile(key) {
  tiles.get(key)?.remove();
  tiles.delete(key);
  if (state.pinned === key) state.pinned = null;
  if (state.unfocused === key) state.unfocused = null;
  arrange();
}

function drawParticipant(participant) {
  if (!state.call?.joined) return;
  drawTile(participant, "camera");
  const shared = [...participant.tracks.values()].some(({ source }) => source === "screen");
  const key = tileKey(participant, "screen");
  // One's own screen in the page that is on the screen would be a hall of mirrors.
  if (shared && !participant.local) drawTile(participant, "screen");
  else if (tiles.has(key)) removeTile(key);
}

// Layout

/** The tile that is shown large: what the user has pinned, else a shared screen. */
function focusedKey() {
  if (state.pinned !== null && tiles.has(state.pinned)) return state.pinned;
  for (const tile of tiles.values()) {
    if (tile.source === "screen" && tile.key !== state.unfocused) return tile.key;
  }
  return null;
}

function togglePin(key) {
  const large = focusedKey() === key;
  state.pinned = large ? null : key;
  // A screen is large by itself, unless the user says no.
  state.unfocused = large && tiles.get(key)?.source === "screen" ? key : null;
  arrange();
}

/** One large tile with the others in a strip, or all alike in a grid. */
function arrange() {
  const focused = focusedKey();
  $("grid").classList.toggle("focus", focused !== null);
  for (const tile of tiles.values()) {
    const isLarge = tile.key === focused;
    const name = tile.participant.local ? "yourself" : tile.participant.displayName;
    const what = tile.source === "screen" ? `${name}'s screen` : name;
    press(tile.find(".pin"), isLarge, isLarge ? `Make ${what} small again` : `Make ${what} large`);
    tile.element.classList.toggle("large", isLarge);
    tile.view.update({ priority: isLarge ? PRIORITY.large : tile.source === "screen" ? PRIORITY.screen : PRIORITY.other });
  }
  sizeTiles();
}

/** In the grid: the number of columns that gives the largest 16:9 tiles, the last row centred. */
function sizeTiles() {
  const grid = $("grid");
  const count = tiles.size;
  const { clientWidth: width, clientHeight: height } = grid;
  if (!count || !width || !height || grid.classList.contains("focus")) return;
  const gap = 10;
  let best = 0;
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const byWidth = (width - gap * (columns - 1)) / columns;
    const byHeight = ((height - gap * (rows - 1)) / rows) * (16 / 9);
    best = Math.max(best, Math.min(byWidth, byHeight));
  }
  grid.style.setProperty("--tile-width", `${Math.max(120, Math.floor(best))}px`);
}

function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  if (words.length === 0) return "?";
  const letters = [words[0], words.length > 1 ? words[words.length - 1] : ""].map((word) => [...word][0] ?? "");
  return letters.join("").toUpperCase();
}

function hue(text) {
  let hash = 0;
  for (const character of text) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
  return hash % 360;
}

// Sound

function addSound({ userId, trackId, stream }) {
  const sound = document.createElement("audio");
  sound.autoplay = true;
  sound.dataset.userId = userId;
  sound.srcObject = stream;
  sound.hidden = true;
  document.body.append(sound);
  sounds.set(`${userId}/${trackId}`, sound);
  sound.play().catch((error) => {
    if (error.name === "NotAllowedError") $("hear").hidden = false;
  });
}

function hear() {
  $("hear").hidden = true;
  for (const sound of sounds.values()) sound.play().catch(() => {});
}

// Chat

function showChat(open) {
  $("chat").hidden = !open;
  $("chat-toggle").setAttribute("aria-expanded", String(open));
  if (open) {
    state.unread = 0;
    $("chat-unread").hidden = true;
    $("chat-text").focus();
  }
}

function chatLine(from, text) {
  const line = document.createElement("li");
  const name = document.createElement("span");
  name.className = "from";
  name.textContent = from;
  line.append(name, text);
  appendToChat(line);
  if ($("chat").hidden) {
    state.unread += 1;
    $("chat-unread").textContent = String(Math.min(state.unread, 99));
    $("chat-unread").hidden = false;
    $("chat-toggle").setAttribute("aria-label", `Chat, ${state.unread} unread`);
  } else {
    $("chat-toggle").setAttribute("aria-label", "Chat");
  }
}

function chatEvent(text) {
  const line = document.createElement("li");
  line.className = "event";
  line.textContent = text;
  appendToChat(line);
}

function appendToChat(line) {
  const log = $("chat-log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(line);
  while (log.childElementCount > 500) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// Words for people

let noticeTimer = null;

function notice(text, kind = "error") {
  clearTimeout(noticeTimer);
  $("notice").hidden = text === null;
  $("notice-text").textContent = text ?? "";
  $("notice").classList.toggle("info", kind === "info");
  if (text !== null && kind === "info") noticeTimer = setTimeout(() => notice(null), 8000);
}

function explain(code, message) {
  const texts = {
    invalid_token: "Your invitation is not valid: the access token was refused. Ask for a new link.",
    token_expired: "Your invitation has expired. Ask for a new link.",
    token_required: "This server needs an access token. Open the link you were given, or paste the token here.",
    code_required: "This server asks for the code that it printed when it started.",
    code_wrong: "That code is not right. The server printed it when it started.",
    forbidden: "You are not allowed to enter this call.",
    banned: "You cannot join this call again.",
    call_not_found: "There is no such call.",
    call_full: "This call is full.",
    room_full: "This call is full.",
    call_locked: "This call is locked: nobody else can join now.",
    unreachable: "The server cannot be reached. Is it running, and are you online?",
    socket_refused: "The server refused the connection. If there is a proxy in between, it must pass WebSockets on.",
    timeout: "The server did not answer in time. Try again.",
    lost: "The connection to the server was lost.",
    kicked: "You were removed from the call.",
    denied: "You were not let in.",
    call_ended: "The call has ended.",
    replaced: "You joined this call in another tab, so it was closed here.",
    server_going_away: "The server is going away. Join again in a moment.",
    server_draining: "The server is going to restart soon. The call may end.",
    rate_limited: "Too many attempts. Wait a moment and try again.",
    not_supported: "This browser cannot share a screen.",
    media_failed: "No media connection could be made. A firewall may be blocking it.",
    insecure_context: "Camera and microphone work on https:// pages only. You can still join to watch and listen.",
    policy: "The server closed the connection because of its rules.",
  };
  return texts[code] ?? (message ? `Something went wrong: ${message}` : `Something went wrong (${code}).`);
}

function explainDevice(error) {
  if (error.code === "insecure_context") return explain("insecure_context");
  switch (error.name) {
    case "NotAllowedError":
      return "Camera and microphone are blocked. Allow them in the address bar, or join to watch and listen.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera or microphone was found. You can still join to watch and listen.";
    case "NotReadableError":
    case "AbortError":
      return "The camera or microphone is in use by another application.";
    default:
      return `Camera and microphone cannot be used: ${error.message}`;
  }
}

function explainMissing(micError, camError) {
  if (micError && camError) return explainDevice(camError);
  if (camError) return camError.name === "NotReadableError" ? "The camera is in use elsewhere." : "No camera was found.";
  if (micError) return micError.name === "NotReadableError" ? "The microphone is in use elsewhere." : "No microphone was found.";
  return "";
}
