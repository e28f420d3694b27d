// Runs in a page: a signaling socket and a media server under the scenario's control, in `globalThis.server`. Media is
// a real pair of connections of the browser.
(() => {
  const JOINED = {
    participants: [{ userId: "ann", displayName: "Ann", role: "host", muted: { audio: true, video: false }, tracks: [] }],
    iceServers: [],
    encoding: { audio: { bitrate: 32000, codec: "opus" }, video: { bitrate: { min: 1, max: 300000 }, codec: "vp8" } },
    you: { userId: "me", role: "participant", permissions: { publish: true } },
    resumeToken: "r1",
    resumed: false,
    media: false,
  };

  const server = {
    inbox: [],
    /** The present socket, and how many there were. */
    socket: null,
    sockets: 0,
    pc: null,
    /** Other members of `joined`. */
    joined: {},
    /** Offers wait for {@link server.answer}. */
    hold: false,
    /** Code of the error that answers the next offer. */
    refuse: null,
    /** Code of the error that answers the next join. */
    refuseJoin: null,
    /** `false`: sockets do not open. */
    reachable: true,
    /** `false`: nothing is answered, as when a network is gone without a word. */
    silent: false,
    /** Data channels that the client opened, by label. */
    channels: new Map(),
    /** Ids of offers in the order they were answered. */
    answered: [],
  };
  globalThis.server = server;

  globalThis.WebSocket = class extends EventTarget {
    static OPEN = 1;
    readyState = 0;
    constructor(url, protocols) {
      super();
      server.sockets += 1;
      setTimeout(() => {
        if (!server.reachable) {
          this.readyState = 3;
          this.onclose?.({ code: 1006, reason: "" });
          return;
        }
        Object.assign(server, { socket: this, url, protocols });
        this.readyState = 1;
        this.onopen?.();
      });
    }
    send(text) {
      const message = JSON.parse(text);
      server.inbox.push(message);
      if (!server.silent) server.onMessage(message);
    }
    close(code) {
      this.readyState = 3;
      server.closedWith = code;
    }
  };

  // The SDK asks over HTTP why a socket did not open.
  const { fetch } = globalThis;
  globalThis.fetch = (address, options) =>
    !server.reachable && String(address).includes("ice-servers")
      ? Promise.reject(new TypeError("the network is gone"))
      : fetch(address, options);

  server.say = (message) => server.socket.onmessage?.({ data: JSON.stringify({ roomId: "r", ...message }) });
  server.drop = (code, reason) => {
    server.socket.readyState = 3;
    server.socket.onclose?.({ code, reason });
  };
  server.sent = (type) => server.inbox.filter((message) => message.type === type);

  function fingerprint(sdp) {
    return /a=fingerprint:(.*)/.exec(sdp)?.[1];
  }

  /** Browsers do not receive simulcast, media servers do. */
  function acceptSimulcast(offer, answer) {
    const offered = offer.split(/(?=^m=)/m);
    return answer
      .split(/(?=^m=)/m)
      .map((section, index) => {
        const rids = /^a=simulcast:send (\S+)/m.exec(offered[index])?.[1];
        if (!rids || section.includes("a=simulcast")) return section;
        const lines = rids.split(";").map((rid) => `a=rid:${rid} recv\r\n`);
        return `${section}${lines.join("")}a=simulcast:recv ${rids}\r\n`;
      })
      .join("");
  }

  async function gathered() {
    while (server.pc.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 10));
    const { type, sdp } = server.pc.localDescription;
    return { type, sdp };
  }
  server.answer = async (message) => {
    const { sdp } = message.data;
    const foreign = server.pc?.remoteDescription && fingerprint(server.pc.remoteDescription.sdp) !== fingerprint(sdp.sdp);
    if (foreign) server.forget();
    if (!server.pc) {
      server.pc = new RTCPeerConnection();
      server.pc.ondatachannel = ({ channel }) => server.channels.set(channel.label, channel);
    }
    await server.pc.setRemoteDescription(sdp);
    for (const transceiver of server.pc.getTransceivers()) {
      if (transceiver.direction === "recvonly" && !transceiver.receiver.track.muted) continue;
      transceiver.direction = "sendrecv";
    }
    await server.pc.setLocalDescription(await server.pc.createAnswer());
    const answer = await gathered();
    answer.sdp = acceptSimulcast(sdp.sdp, answer.sdp);
    server.answered.push(message.id);
    server.say({ type: "answer", userId: "sfu", id: message.id, data: { sdp: answer } });
  };
  server.offer = async (id) => {
    await server.pc.setLocalDescription(await server.pc.createOffer({ iceRestart: true }));
    server.say({ type: "offer", userId: "sfu", id, data: { sdp: await gathered() } });
  };
  /** The media connection is gone at the server; the client's next offer makes another. */
  server.forget = () => {
    server.pc?.close();
    server.pc = null;
  };
  server.onMessage = async (message) => {
    if (message.type === "ping") {
      server.say({ type: "pong", id: message.id });
    } else if (message.type === "join" && server.refuseJoin) {
      server.say({ type: "error", id: message.id, data: { code: server.refuseJoin, message: "not so" } });
      server.refuseJoin = null;
    } else if (message.type === "join") {
      server.say({ type: "joined", id: message.id, userId: "me", data: { ...JOINED, ...server.joined } });
    } else if (message.type === "offer" && server.refuse) {
      const code = server.refuse;
      server.refuse = null;
      server.say({ type: "error", userId: "sfu", id: message.id, data: { code, message: "not so" } });
    } else if (message.type === "offer" && !server.hold) {
      await server.answer(message);
    } else if (message.type === "answer") {
      await server.pc.setRemoteDescription(message.data.sdp);
    } else if (message.type === "ice-candidate" && message.data.candidate && server.pc?.remoteDescription) {
      await server.pc.addIceCandidate(message.data.candidate).catch(() => {});
    }
  };
})();
