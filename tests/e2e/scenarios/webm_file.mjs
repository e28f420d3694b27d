/** BROWSER plays each WebM file of the folder FILES: it knows the duration, shows moving pictures, and seeks. */

import { createServer } from "node:http";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { chromium, firefox } from "../lib/browser.mjs";
import { assert, cleanup, step, story, until } from "../lib/story.mjs";

const FOLDER = process.env.FILES;
const files = readdirSync(FOLDER).filter((name) => name.endsWith(".webm"));

/** Serves the folder with ranges, as a store does. */
function serve() {
  const server = createServer((request, response) => {
    const name = decodeURIComponent(request.url.slice(1));
    if (!name) {
      response.setHeader("content-type", "text/html");
      return response.end("<video muted></video>");
    }
    if (!files.includes(name)) {
      response.statusCode = 404;
      return response.end();
    }
    const bytes = readFileSync(join(FOLDER, name));
    const [, from, to] = /bytes=(\d+)-(\d*)/.exec(request.headers.range ?? "") ?? [];
    const end = to ? Number(to) : bytes.length - 1;
    response.setHeader("content-type", "video/webm");
    response.setHeader("accept-ranges", "bytes");
    if (from === undefined) return response.end(bytes);
    response.statusCode = 206;
    response.setHeader("content-range", `bytes ${from}-${end}/${bytes.length}`);
    response.end(bytes.subarray(Number(from), end + 1));
  });
  cleanup(() => server.close());
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
}

await story(`WebM files in ${process.env.BROWSER}`, async () => {
  const port = await serve();
  const browser = await (process.env.BROWSER === "firefox" ? firefox() : chromium());
  assert(files.length > 3, "files to play");
  for (const file of files) {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${port}/`);
    const duration = await page.evaluate(async (file) => {
      const video = document.querySelector("video");
      globalThis.errors = [];
      video.onerror = () => errors.push(video.error?.message);
      globalThis.frames = [];
      const note = (_, data) => {
        frames.push(data.mediaTime);
        video.requestVideoFrameCallback(note);
      };
      video.requestVideoFrameCallback(note);
      video.src = `/${file}`;
      await new Promise((resolve, reject) => {
        video.onloadedmetadata = resolve;
        video.addEventListener("error", () => reject(new Error(video.error.message)));
      });
      await video.play();
      return video.duration;
    }, file);
    const [least, most] = file.startsWith("repaired") ? [6.5, 8] : [7.9, 8.1];
    assert(duration > least && duration < most, `${file}: ${duration} s is between ${least} and ${most}`);
    for (const share of [0, 0.25, 0.75, 0.5]) {
      const at = share * duration;
      // Pictures from before the seek may be reported until it is over.
      await page.evaluate(async (at) => {
        const video = document.querySelector("video");
        const seeked = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
        video.currentTime = at;
        await seeked;
        frames.length = 0;
      }, at);
      const seen = await until(`${file} plays from ${at.toFixed(2)} s`, async () => {
        const seen = await page.evaluate(() => ({ frames, errors, end: document.querySelector("video").seekable.end(0) }));
        const [first, last] = [seen.frames[0], seen.frames.at(-1)];
        const ok = first > at - 0.3 && first < at + 0.5 && last > first + 0.3 && seen.end === duration;
        return { ok: ok && seen.errors.length === 0, first, last, errors: seen.errors };
      });
      step(`${file}: from ${seen.first.toFixed(2)} to ${seen.last.toFixed(2)} s`);
    }
    await page.close();
  }
});
