/**
 * A recording goes into a bucket: whoever downloads is sent there, a browser plays and seeks in it, and a deletion leaves nothing.
 */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { blankPage, chromium, temporaryDirectory } from "../lib/browser.mjs";
import { analyse, cameraOf, hostToken, playsAndSeeks, publish, Recording, rest, SYNC, voiceOf } from "../lib/recording.mjs";
import { assert, assertEqual, room, step, story } from "../lib/story.mjs";

const bucket = process.env.S3_BUCKET_DIRECTORY;

await story("a recording goes into a bucket", async () => {
  const browser = await chromium();
  const id = room("bucket");
  const host = await hostToken(id);
  const alice = await publish(browser, "alice", id);
  const recording = await Recording.start(id, host);
  await recording.reaches(6);
  await recording.order("stop");
  const entry = await recording.completed();
  await alice.close();

  for (const file of entry.files) {
    const expected = file.kind === "metadata" ? "both" : "storage";
    const key = `${id}/${recording.recordingId}/${file.name}`;
    assertEqual([file.location, file.storageUrl], [expected, `s3://recordings/calls/${key}`], `where ${file.name} is`);
    const object = readFileSync(join(bucket, "calls", key));
    assertEqual(hash(object), file.sha256, `SHA-256 of the object of ${file.name}`);
  }
  step("every file is in the bucket");

  const whole = entry.files.find(({ kind }) => kind === "call");
  const url = recording.fileUrl(whole.name);
  const sent = await fetch(url, { redirect: "manual" });
  const to = sent.headers.get("location") ?? "";
  assertEqual([sent.status, sent.headers.get("cache-control")], [302, "no-store"], "a download");
  assert(to.includes("X-Amz-Signature") && !to.includes(process.env.S3_SECRET), `it is signed, and tells no secret: ${to}`);
  const bytes = Buffer.from(await (await fetch(url)).arrayBuffer());
  assertEqual(hash(bytes), whole.sha256, "SHA-256 of what is downloaded");
  const part = await fetch(url, { headers: { range: "bytes=100-199" } });
  assertEqual([part.status, Buffer.from(await part.arrayBuffer()).equals(bytes.subarray(100, 200))], [206, true], "a range of it");
  const stranger = await fetch(recording.fileUrl(whole.name, null), { redirect: "manual" });
  assertEqual(stranger.status, 401, "nobody is sent there without a token");
  step("whoever may is sent to the bucket");

  const path = join(temporaryDirectory("bucket"), whole.name);
  writeFileSync(path, bytes);
  await analyse(path, {
    avOffsetMs: SYNC.avOffsetMs,
    complete: true,
    tracks: [cameraOf("alice", { flashes: 3 }), voiceOf("alice", { beeps: 3 })],
  });
  const player = await blankPage(browser, "player", { path: await foreignPage() });
  await playsAndSeeks(player, "Chromium", url, whole.media.durationMs / 1_000);

  assertEqual((await rest(host, "DELETE", recording.path)).status, 204, "the deletion");
  const left = join(bucket, "calls", id, recording.recordingId);
  assert(!existsSync(left) || readdirSync(left).length === 0, "nothing is left in the bucket");
  step("it is deleted");
});

/** Of another origin, as the product is that has the calls: the page of the server plays nothing from elsewhere. */
async function foreignPage() {
  const server = createServer((_, response) => response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>product</title>"));
  server.unref();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}/`;
}

function hash(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}
