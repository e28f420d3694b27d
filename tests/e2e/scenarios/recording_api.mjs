/** Recordings by REST: who may what, what is refused and how, and what is recorded when it is wished for. */

import { chromium } from "../lib/browser.mjs";
import { allSeeEachOther, analyse, cameraOf, hostToken, publish, Recording, refused, rest, voiceOf } from "../lib/recording.mjs";
import { assert, assertEqual, room, step, story, token } from "../lib/story.mjs";

const SHORT_S = 3;

await story("recordings by REST", async () => {
  const browser = await chromium();
  const id = room("api");
  const pages = { alice: await publish(browser, "alice", id), bob: await publish(browser, "bob", id) };
  await allSeeEachOther(pages);
  const host = await hostToken(id);
  const moderator = await token("moderator", id, { role: "moderator" });
  const participant = await token("alice", id);
  const start = Recording.path(id, "/start");

  await refused(null, "POST", start, {}, 401, "invalid_token");
  await refused(participant, "POST", start, {}, 403, "forbidden");
  for (const layout of ["grid", "speaker"]) await refused(host, "POST", start, { layout }, 501, "not_available");
  const nowhere = room("nowhere");
  await refused(await hostToken(nowhere), "POST", Recording.path(nowhere, "/start"), {}, 404, "call_not_found");
  step("what is refused before a start");

  const recording = await Recording.start(id, host, { layout: "tracks" });
  const again = await refused(host, "POST", start, {}, 409, "recording_active");
  assertEqual(again.recordingId, recording.recordingId, "the recording that is active");
  assert(`${again.detail}`.length > 0, "a reason in words");
  const orders = ["stop", "pause", "resume"].map((order) => ["POST", Recording.path(id, `/${order}`)]);
  for (const [method, path] of [...orders, ["GET", Recording.path(id)], ["GET", recording.path], ["DELETE", recording.path]]) {
    await refused(participant, method, path, undefined, 403, "forbidden");
  }
  await refused(moderator, "DELETE", recording.path, undefined, 403, "forbidden");
  await refused(host, "DELETE", recording.path, undefined, 409, "recording_active");
  step("what is refused while it records");

  await recording.reaches(SHORT_S);
  const byModerator = new Recording(id, moderator, recording.recordingId);
  await byModerator.order("stop");
  await byModerator.order("stop");
  const entry = await recording.completed();
  assertEqual(await recording.order("stop"), "completed", "a stop of what is complete");
  step("a stop may be repeated");

  await lists(id, moderator, recording);
  const name = entry.files.find(({ kind }) => kind === "call").name;
  await refused(null, "GET", `${recording.path}/files/${name}`, undefined, 401, "invalid_token");
  await refused(participant, "GET", `${recording.path}/files/${name}`, undefined, 403, "forbidden");
  for (const wrong of ["nothing.webm", "..%2F..%2Fdata", "..%2Fmetadata.json", "%2Fetc%2Fpasswd"]) {
    const { status } = await rest(host, "GET", `${recording.path}/files/${wrong}`);
    assertEqual(status, 404, `GET of ${wrong}`);
  }
  await new Recording(id, moderator, recording.recordingId).download(entry);
  step("who may download");

  await wishes(id, host);

  assertEqual((await rest(host, "DELETE", recording.path)).status, 204, "DELETE");
  for (const path of [recording.path, `${recording.path}/files/${name}`]) {
    assertEqual((await rest(host, "GET", path)).status, 404, `GET ${path} after DELETE`);
  }
  const { body } = await rest(host, "GET", Recording.path(id));
  assert(!body.items.some(({ recordingId }) => recordingId === recording.recordingId), "it is not listed any more");
  step("deleted");
});

/** Newest first, in pages. */
async function lists(id, jwt, first) {
  const host = await hostToken(id);
  const second = await Recording.start(id, host);
  await second.reaches(1);
  await second.order("stop");
  await second.completed();
  const seen = [];
  for (let cursor = ""; cursor !== null; ) {
    const { status, body } = await rest(jwt, "GET", Recording.path(id, `?limit=1${cursor && `&cursor=${encodeURIComponent(cursor)}`}`));
    assertEqual([status, body.items.length <= 1], [200, true], "a page of the list");
    seen.push(...body.items.map(({ recordingId }) => recordingId));
    cursor = body.nextCursor;
    assert(seen.length <= 2, `the list ends: ${seen}`);
  }
  assertEqual(seen, [second.recordingId, first.recordingId], "recordings");
  await rest(host, "DELETE", second.path);
  step("listed, newest first");
}

/** Only sound, and only somebody. */
async function wishes(id, host) {
  const cases = [
    [{ audioOnly: true }, [voiceOf("alice", { beeps: 2 }), voiceOf("bob", { beeps: 2 })]],
    [{ participants: ["alice"] }, [cameraOf("alice", { flashes: 1 }), voiceOf("alice", { beeps: 2 })]],
  ];
  for (const [options, tracks] of cases) {
    const recording = await Recording.start(id, host, options);
    await recording.reaches(SHORT_S + 1);
    await recording.order("stop");
    const files = await recording.download(await recording.completed());
    await analyse(files["recording.webm"], { tracks, complete: true });
    step(`${JSON.stringify(options)}: nothing else is recorded`);
  }
}
