/**
 * Messages over data channels, reliable and lossy, to the room and to one person, between two kinds of browsers: everything
 * sent reliably comes, once, in order, to those for whom it is, and says by whom.
 */

import { blankPage, chromium, firefox } from "../lib/browser.mjs";
import { join, joinAs } from "../lib/call.mjs";
import { assertEqual, room, step, story, until } from "../lib/story.mjs";

/** A burst of 400 is let pass. */
const COUNT = 150;

await story("data channels", async () => {
  const [browser, fox] = await Promise.all([chromium(), firefox()]);
  const id = room("data");
  const pages = {
    alice: await joinAs(browser, "alice", id, { colour: null }),
    bob: await blankPage(fox, "bob"),
    carol: await joinAs(browser, "carol", id, { colour: null, tone: null }),
  };
  await join(pages.bob, "bob", id, { colour: null, tone: null });
  const names = Object.keys(pages);
  for (const name of names) {
    await pages[name].evaluate(() => {
      globalThis.got = [];
      e2e.state.call.addEventListener("message", ({ detail: { participant, data, ...rest } }) => {
        got.push({ ...rest, known: participant?.userId === rest.userId, data: data instanceof Uint8Array ? { bytes: [...data] } : data });
      });
    });
  }
  const got = (name) => pages[name].evaluate(() => got);
  const send = (name, data, options) =>
    pages[name].evaluate(([value, given]) => e2e.state.call.sendMessage(value?.bytes ? new Uint8Array(value.bytes) : value, given), [data, options]);
  const said = (list, channel = "reliable") => list.filter((message) => message.channel === channel).map(({ userId, to, data, lossy, known }) => ({ userId, to, data, lossy, known }));

  // To the room, to one, text and bytes, of everybody at the same time.
  for (const name of names) {
    await pages[name].evaluate(async ([count, others]) => {
      const { call } = e2e.state;
      for (let n = 0; n < count; n += 1) {
        call.sendMessage({ n });
        call.sendMessage(`for ${others[n % 2]} ${n}`, { to: others[n % 2] });
      }
      await call.sendMessage(new Uint8Array([0, 255, count % 256]));
      await call.sendMessage(new Uint8Array([1, 2, 3]), { to: others[0] });
      await call.sendMessage("the end ünd ende");
    }, [COUNT, names.filter((other) => other !== name)]);
  }
  for (const name of names) {
    const others = names.filter((other) => other !== name);
    const all = await until(`the end of all at ${name}`, async () => {
      const list = await got(name);
      const ends = list.filter(({ data }) => data === "the end ünd ende").length;
      return ends === others.length ? list : { ok: false, ends, count: list.length };
    });
    for (const other of others) {
      const place = names.filter((one) => one !== other).indexOf(name);
      const expected = [];
      for (let n = 0; n < COUNT; n += 1) {
        expected.push({ userId: other, to: null, data: { n }, lossy: false, known: true });
        if (n % 2 === place) expected.push({ userId: other, to: name, data: `for ${name} ${n}`, lossy: false, known: true });
      }
      expected.push({ userId: other, to: null, data: { bytes: [0, 255, COUNT % 256] }, lossy: false, known: true });
      if (place === 0) expected.push({ userId: other, to: null, data: { bytes: [1, 2, 3] }, lossy: false, known: true });
      expected.push({ userId: other, to: null, data: "the end ünd ende", lossy: false, known: true });
      const found = said(all).filter(({ userId }) => userId === other);
      assertEqual(found, expected, `what ${name} gets of ${other}`);
    }
  }
  step(`${COUNT * 2 + 3} reliable messages of each come to those for whom they are`);

  // Lossy ones may be lost, so they are said until they are heard.
  for (const [from, to] of [["alice", "bob"], ["bob", "alice"], ["alice", "carol"], ["carol", null], ["bob", null]]) {
    const data = `lossy of ${from} to ${to}`;
    const targets = to ? [to] : names.filter((name) => name !== from);
    await until(data, async () => {
      await send(from, data, { lossy: true, ...(to ? { to } : {}) });
      const lists = await Promise.all(targets.map(got));
      return lists.every((list) => list.some((message) => message.data === data && message.lossy && message.userId === from && message.to === to));
    });
  }
  step("lossy messages come");

  // A channel of the application's own.
  await send("bob", "on another channel", { channel: "game" });
  await until("a channel of one's own", async () => said(await got("alice"), "game").some(({ data, userId }) => data === "on another channel" && userId === "bob"));
  await until("it at carol's", async () => said(await got("carol"), "game").length === 1);

  // The largest that fits, and one that does not.
  const large = await pages.alice.evaluate(async () => {
    const { call } = e2e.state;
    await call.sendMessage("x".repeat(65_000), { to: "bob" });
    return call.sendMessage("x".repeat(66_000)).catch(({ code }) => code);
  });
  assertEqual(large, "too_large", "a message that is too large");
  await until("a large one", async () => (await got("bob")).some(({ data }) => data?.length === 65_000));

  // What was for one was for nobody else.
  for (const name of names) {
    const strayed = (await got(name)).filter(({ userId, data, to }) => userId === name || (to !== null && to !== name) || (typeof data === "string" && /^lossy of \w+ to (?!null)/.test(data) && !data.endsWith(name)));
    assertEqual(strayed, [], `strayed to ${name}`);
  }
});
