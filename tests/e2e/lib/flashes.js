// Media by which a recording can be measured. One expression that fills `e2e.flashes`; it needs the helpers of `in-page.js`.
//
// The picture has its participant's colour, and flashes at the beginning of every second of the wall clock. At the same moment
// the sound beeps: the participant's tone, quiet at other times, becomes loud. A strip at the bottom says in binary which second
// it is. What is known of the layout here is known to `analyse_recording.py` too.
e2e.flashes = (() => {
  const FLASH_S = 0.12;
  const BEEP_S = 0.1;
  /** Every so often a beep is twice as long, so that a sound that is whole seconds off is found as well. Divides what the strip tells. */
  const LONG_EVERY = 4;
  const QUIET = 0.03;
  const LOUD = 0.5;
  /** Of a beep's edges, so that they do not click in all frequencies. */
  const RAMP_S = 0.002;
  /** Bits of the strip, and its share of the height. */
  const BITS = 8;
  const STRIP = 1 / 6;
  /** Between two looks at the clock: an edge of a flash is at most so late. */
  const LOOK_MS = 2;
  /**
   * From the audio context to the times of RTP packets, as sender reports tell them: measured in Chromium, the same in
   * every run to within 8 ms. Without it every recording would have its sound that late.
   */
  const SOUND_LATE_S = 0;
  /** What is drawn later after the beginning of its second than this would say of the recording what is the page's fault. */
  const IN_TIME_S = 0.01;
  /** Sound is scheduled so much ahead. */
  const AHEAD_S = 0.5;

  /**
   * The time of the wall clock at which a moment of the audio context is rendered, in seconds. Rendering goes in steps, of which
   * the ends are known best: then the context is furthest ahead.
   */
  function wallClock(context) {
    const latest = [];
    return {
      look() {
        latest.push(e2e.clock() / 1000 - context.currentTime);
        if (latest.length > 200) latest.shift();
      },
      /** Of the context, for a time of the wall. */
      moment: (second) => second - Math.min(...latest),
    };
  }

  /**
   * Tracks that flash and beep, of those that are wished for. `loudness` is that between beeps, well below 0.5. The canvas may be
   * resized at any time.
   */
  function make({ colour, tone, loudness = QUIET, width = 320, height = 180, fps = 15 } = {}) {
    const context = new AudioContext({ sampleRate: 48_000 });
    const wall = wallClock(context);
    const gain = context.createGain();
    const oscillator = context.createOscillator();
    const destination = context.createMediaStreamDestination();
    oscillator.frequency.value = tone ?? 1_000;
    gain.gain.value = loudness;
    oscillator.connect(gain).connect(destination);
    oscillator.start();

    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const picture = canvas.getContext("2d", { alpha: false });
    const video = colour && canvas.captureStream(0).getVideoTracks()[0];

    /** The second of which the beep is scheduled already. */
    let scheduled = Math.ceil(e2e.clock() / 1000);
    const schedule = () => {
      const at = wall.moment(scheduled + 1) - SOUND_LATE_S;
      if (at - context.currentTime > AHEAD_S) return;
      scheduled += 1;
      const length = scheduled % LONG_EVERY === 0 ? 2 * BEEP_S : BEEP_S;
      for (const [moment, from, to] of [[at, loudness, LOUD], [at + length, LOUD, loudness]]) {
        gain.gain.setValueAtTime(from, moment);
        gain.gain.linearRampToValueAtTime(to, moment + RAMP_S);
      }
    };

    const draw = (second, isLit) => {
      const { width: w, height: h } = canvas;
      const [r, g, b] = e2e.COLOURS[colour];
      // Whatever is further away.
      const flash = 0.3 * r + 0.6 * g + 0.1 * b > 128 ? "#000" : "#fff";
      picture.fillStyle = isLit ? flash : `rgb(${r},${g},${b})`;
      picture.fillRect(0, 0, w, h);
      if (!isLit) drawNoise(picture, w, h);
      for (let bit = 0; bit < BITS; bit += 1) {
        picture.fillStyle = (second >> (BITS - 1 - bit)) & 1 ? "#fff" : "#000";
        picture.fillRect((bit * w) / BITS, h * (1 - STRIP), w / BITS + 1, h * STRIP + 1);
      }
      video.requestFrame();
    };

    /** The pictures of a second begin with it, whatever their number. */
    let shown = null;
    /** The second that was begun last, and whether that was in time: a flash that cannot come with its beep does not come. */
    let begun = { second: null, inTime: false };
    const look = () => {
      wall.look();
      schedule();
      const now = e2e.clock() / 1000;
      const second = Math.floor(now);
      const n = Math.floor((now - second) * fps);
      if (!video || `${second} ${n}` === shown) return;
      shown = `${second} ${n}`;
      if (begun.second !== second) begun = { second, inTime: now - second < IN_TIME_S };
      draw(second % 2 ** BITS, begun.inTime && n < Math.max(1, Math.round(FLASH_S * fps)));
      e2e.stalls.beat("drawing", 1000 / fps);
    };
    const stream = new MediaStream([...(tone ? destination.stream.getAudioTracks() : []), ...(video ? [video] : [])]);
    const timer = setInterval(() => {
      if (stream.active) return look();
      clearInterval(timer);
      context.close();
    }, LOOK_MS);
    return { canvas, stream };
  }

  /** Gives the encoder something to do, so that it comes to send all that it may. */
  function drawNoise(picture, w, h) {
    const count = 5;
    for (let n = 0; n < count * count; n += 1) {
      const grey = Math.floor(Math.random() * 256);
      picture.fillStyle = `rgb(${grey},${grey},${grey})`;
      const [column, row] = [n % count, Math.floor(n / count)];
      picture.fillRect(w * (0.6 + column * 0.07), h * (0.15 + row * 0.12), w * 0.07, h * 0.12);
    }
  }

  return { make };
})();
