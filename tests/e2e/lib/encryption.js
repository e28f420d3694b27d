// Encrypts encoded media in a worker, as an application would, leaving clear what the SDK's documentation says. One expression
// that fills `globalThis.encryption`. The cipher is a toy: what matters here is what is left clear.
globalThis.encryption = (() => {
  const work = () => {
    /** Octets of a frame that stay clear. */
    const HEADERS = {
      opus: () => 1,
      vp8: (frame) => (frame.type === "key" ? 10 : 3),
      // Everything that is worth reading is in the payload descriptor, which is no part of a frame.
      vp9: () => 0,
    };

    const mix = (bytes, key) => {
      for (let at = 0; at < bytes.length; at += 1) bytes[at] ^= key[at % key.length];
    };

    /** Ranges of NAL units, without their start codes. */
    const units = (bytes) => {
      const starts = [];
      for (let at = 0; at + 2 < bytes.length; at += 1) {
        if (bytes[at] === 0 && bytes[at + 1] === 0 && bytes[at + 2] === 1) starts.push(at);
      }
      return starts.map((start, n) => {
        const next = starts[n + 1] ?? bytes.length;
        // Start codes of four octets begin with one more zero.
        return [start + 3, n + 1 < starts.length && bytes[next - 1] === 0 ? next - 1 : next];
      });
    };

    const unescaped = (bytes) => {
      const out = [];
      let zeros = 0;
      for (const byte of bytes) {
        if (zeros >= 2 && byte === 3) {
          zeros = 0;
          continue;
        }
        zeros = byte === 0 ? zeros + 1 : 0;
        out.push(byte);
      }
      return Uint8Array.from(out);
    };

    const escaped = (bytes) => {
      const out = [];
      let zeros = 0;
      for (const byte of bytes) {
        if (zeros >= 2 && byte <= 3) {
          out.push(3);
          zeros = 0;
        }
        zeros = byte === 0 ? zeros + 1 : 0;
        out.push(byte);
      }
      return out;
    };

    /** All but parameter sets, and of others the header. The last octet is never zero, and stays so. */
    const h264 = (bytes, key) => {
      const out = [];
      for (const [start, end] of units(bytes)) {
        out.push(0, 0, 0, 1);
        const type = bytes[start] & 31;
        if (type === 7 || type === 8 || end - start < 6) {
          out.push(...bytes.subarray(start, end));
          continue;
        }
        const payload = unescaped(bytes.subarray(start + 4, end));
        mix(payload.subarray(0, payload.length - 1), key);
        out.push(...bytes.subarray(start, start + 4), ...escaped(payload));
      }
      return Uint8Array.from(out);
    };

    /** What is in the OBUs, but not in sequence headers and temporal delimiters. */
    const av1 = (bytes, key) => {
      for (let at = 0; at < bytes.length; ) {
        const type = (bytes[at] >> 3) & 15;
        const hasExtension = bytes[at] & 4;
        const hasSize = bytes[at] & 2;
        at += hasExtension ? 2 : 1;
        let size = bytes.length - at;
        if (hasSize) {
          size = 0;
          for (let shift = 0; ; shift += 7) {
            const byte = bytes[at];
            at += 1;
            size |= (byte & 127) << shift;
            if (byte < 128) break;
          }
        }
        if (type !== 1 && type !== 2) mix(bytes.subarray(at, at + size), key);
        at += size;
      }
      return bytes;
    };

    onrtctransform = ({ transformer }) => {
      const { key, codec: given, kind } = transformer.options;
      let count = 0;
      const mixed = new TransformStream({
        transform(frame, controller) {
          const codec = (frame.getMetadata().mimeType ?? `${kind}/${given}`).split("/")[1].toLowerCase();
          const bytes = new Uint8Array(frame.data);
          if (codec === "h264") frame.data = h264(bytes, key).buffer;
          else if (codec === "av1") av1(bytes, key);
          else if (codec in HEADERS) mix(bytes.subarray(HEADERS[codec](frame)), key);
          else throw new TypeError(`no way to encrypt ${codec}`);
          count += 1;
          if (count === 1) postMessage(codec);
          controller.enqueue(frame);
        },
      });
      transformer.readable.pipeThrough(mixed).pipeTo(transformer.writable);
    };
  };

  const worker = new Worker(URL.createObjectURL(new Blob([`(${work})()`], { type: "text/javascript" })));
  const codecs = [];
  worker.onmessage = ({ data }) => codecs.push(data);
  worker.onerror = ({ message }) => globalThis.e2e.log(`worker: ${message}`);

  return {
    /** Of the first frames that passed. */
    codecs,
    /** Transforms for the SDK. `codec` of video, where the browser does not say it. */
    hooks(key, codec) {
      const set = (end, { kind }) => {
        end.transform = new RTCRtpScriptTransform(worker, { key, kind, codec: kind === "audio" ? "opus" : codec });
      };
      return { sender: set, receiver: set };
    },
  };
})();
