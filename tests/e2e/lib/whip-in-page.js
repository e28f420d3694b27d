// Adds `e2e.whip` to a page: sessions of WHIP (RFC 9725) and WHEP by plain fetch, as their clients make them.
globalThis.e2e.whip = (() => {
  const { log } = globalThis.e2e;

  /** A media connection and the resource that it is at the server. */
  class Session {
    pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    /** Remote tracks, in the order of the lines. */
    tracks = [];
    location = null;
    etag = null;
    #token;
    #answer = null;
    /** Of the ICE session: what has been gathered, and is not yet sent. */
    #candidates = [];
    #patches = Promise.resolve();
    /** What is found is sent at once; not while the ICE session to which it belongs is yet to be made known. */
    #trickles = false;
    /** Statuses of the PATCHes that trickled. */
    trickled = [];

    constructor(token) {
      this.#token = token;
      this.pc.addEventListener("connectionstatechange", () => log(`session ${this.pc.connectionState}`));
      this.pc.addEventListener("track", ({ track }) => this.tracks.push(track));
    }

    /** `trickle`: the offer goes out at once, and candidates follow as they are found; else it holds them all. */
    async open(endpoint, { trickle }) {
      const gathered = this.#gathered();
      await this.pc.setLocalDescription();
      const { ufrag } = credentials(this.pc.localDescription.sdp);
      if (!trickle) await gathered;
      const response = await this.#fetch("POST", endpoint, { "content-type": "application/sdp" }, this.pc.localDescription.sdp);
      this.#answer = await response.text();
      if (response.status !== 201) throw new Error(`POST ${endpoint}: ${response.status} ${this.#answer}`);
      this.location = new URL(response.headers.get("location"), response.url).href;
      this.etag = response.headers.get("etag");
      await this.pc.setRemoteDescription({ type: "answer", sdp: this.#answer });
      if (trickle) {
        this.#trickles = true;
        this.#send(ufrag);
        await gathered;
        await this.#patches;
      }
      return { answer: this.#answer, location: this.location, etag: this.etag, trickled: this.trickled };
    }

    /** Other credentials for the same session (RFC 9725 §4.3.3): the answer is that of the beginning, with the server's new ones. */
    async restart() {
      const trickles = this.#trickles;
      this.#trickles = false;
      await this.pc.setLocalDescription(await this.pc.createOffer({ iceRestart: true }));
      const before = this.etag;
      const response = await this.#patch(fragment(this.pc.localDescription.sdp, []), "*");
      const text = await response.text();
      if (response.status !== 200) throw new Error(`PATCH: ${response.status} ${text}`);
      this.etag = response.headers.get("etag");
      const { ufrag, password } = credentials(text);
      this.#answer = this.#answer
        .replace(/^a=ice-ufrag:.*$/gm, () => `a=ice-ufrag:${ufrag}`)
        .replace(/^a=ice-pwd:.*$/gm, () => `a=ice-pwd:${password}`);
      await this.pc.setRemoteDescription({ type: "answer", sdp: this.#answer });
      const stale = await this.#patch(fragment(this.pc.localDescription.sdp, []), before);
      const own = credentials(this.pc.localDescription.sdp).ufrag;
      this.#trickles = trickles;
      if (trickles) this.#send(own);
      return { before, after: this.etag, stale: stale.status, ufrag: own };
    }

    async end() {
      const response = await this.#fetch("DELETE", this.location);
      return response.status;
    }

    async look() {
      const response = await this.#fetch("GET", this.location);
      return response.status;
    }

    /** Of a kind: the counters of what is received or sent, by rid where there are several. */
    async counters(kind) {
      const found = { frames: 0, packets: 0, energy: 0, codec: null, sent: {} };
      const report = await this.pc.getStats();
      for (const entry of report.values()) {
        if (entry.kind !== kind) continue;
        if (entry.type === "inbound-rtp") {
          found.frames += entry.framesDecoded ?? 0;
          found.packets += entry.packetsReceived ?? 0;
          found.energy += entry.totalAudioEnergy ?? 0;
          found.codec = report.get(entry.codecId)?.mimeType ?? null;
        } else if (entry.type === "outbound-rtp") {
          found.sent[entry.rid ?? ""] = entry.packetsSent ?? 0;
        }
      }
      return found;
    }

    /** Own user name and state of the ICE session over which media goes. */
    async iceSession() {
      for (const entry of (await this.pc.getStats()).values()) {
        if (entry.type === "transport") return { ufrag: entry.iceLocalUsernameFragment, state: entry.iceState };
      }
      return null;
    }

    #gathered() {
      return new Promise((resolve) => {
        this.pc.addEventListener("icecandidate", ({ candidate }) => {
          if (candidate?.candidate) this.#candidates.push(candidate);
          else if (!candidate) resolve();
          if (this.#trickles && candidate?.candidate) this.#send(candidate.usernameFragment);
        });
      });
    }

    /** Trickles what has been gathered, one request after the other. */
    #send(ufrag) {
      const candidates = this.#candidates.splice(0).filter((candidate) => candidate.usernameFragment === ufrag);
      if (!candidates.length) return;
      const body = fragment(this.pc.localDescription.sdp, candidates);
      this.#patches = this.#patches.then(async () => this.trickled.push((await this.#patch(body, this.etag)).status));
    }

    #patch(body, condition) {
      const headers = { "content-type": "application/trickle-ice-sdpfrag", "if-match": condition };
      return this.#fetch("PATCH", this.location, headers, body);
    }

    async #fetch(method, url, headers = {}, body = undefined) {
      const response = await fetch(url, { method, headers: { authorization: `Bearer ${this.#token}`, ...headers }, body });
      log(`${method} ${new URL(response.url).pathname} ${response.status}`);
      return response;
    }
  }

  function credentials(sdp) {
    return { ufrag: sdp.match(/^a=ice-ufrag:(\S+)/m)[1], password: sdp.match(/^a=ice-pwd:(\S+)/m)[1] };
  }

  /** application/trickle-ice-sdpfrag, RFC 8840 §9. */
  function fragment(sdp, candidates) {
    const { ufrag, password } = credentials(sdp);
    const [mid] = sdp.match(/^a=mid:.*$/m);
    const media = sdp.match(/^m=.*$/m);
    const lines = candidates.map(({ candidate }) => `a=${candidate}`);
    const head = [sdp.match(/^a=group:BUNDLE.*$/m)[0], `a=ice-ufrag:${ufrag}`, `a=ice-pwd:${password}`];
    return [...head, media[0], mid, ...lines, ""].join("\r\n");
  }

  /** Sends a made picture in these encodings, and a tone. */
  async function publish({ endpoint, token, colour, tone, size, encodings, trickle = true }) {
    const session = new Session(token);
    const stream = globalThis.e2e.makeMedia({ colour, tone, ...size });
    for (const track of stream.getTracks()) {
      const sendEncodings = track.kind === "video" ? encodings : undefined;
      session.pc.addTransceiver(track, { direction: "sendonly", streams: [stream], sendEncodings });
    }
    globalThis.e2e.session = session;
    return session.open(endpoint, { trickle });
  }

  /** Lines for one sound and one picture. */
  async function watch({ endpoint, token, trickle = false }) {
    const session = new Session(token);
    for (const kind of ["audio", "video"]) session.pc.addTransceiver(kind, { direction: "recvonly" });
    globalThis.e2e.session = session;
    return session.open(endpoint, { trickle });
  }

  /** What the remote tracks show and sound like. */
  function perceive() {
    const of = (kind) => globalThis.e2e.session.tracks.find((track) => track.kind === kind);
    return { picture: globalThis.e2e.lookAtTrack(of("video")), sound: globalThis.e2e.listen(of("audio")) };
  }

  return { publish, watch, perceive };
})();
