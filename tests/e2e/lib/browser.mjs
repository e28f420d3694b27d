/** Starts browsers, and pages that have the helpers of `in-page.js`. */

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { spawn } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanup, onFailure, serverUrl, Skip, step, until } from "./story.mjs";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FIREFOX = process.env.FIREFOX ?? "/usr/bin/firefox-esr";

/** Fake devices so that no prompt appears; the throttling switches let many pages of one browser run at full rate. */
const CHROMIUM_ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
  "--autoplay-policy=no-user-gesture-required",
  "--allow-loopback-in-peer-connection",
  "--disable-background-timer-throttling",
  "--disable-renderer-backgrounding",
  "--disable-backgrounding-occluded-windows",
];

/** Fake devices; the two ICE settings let it use loopback and name plain addresses. */
const FIREFOX_SETTINGS = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
  "media.peerconnection.ice.loopback": true,
  "media.peerconnection.ice.obfuscate_host_addresses": false,
  "media.autoplay.default": 0,
  "media.autoplay.blocking_policy": 0,
  "app.update.enabled": false,
  "media.gmp-manager.updateEnabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
  "toolkit.telemetry.enabled": false,
};

const IN_PAGE = readFileSync(new URL("./in-page.js", import.meta.url), "utf8");
const SCRIPTED_SERVER = readFileSync(new URL("./scripted-server.js", import.meta.url), "utf8");

/**
 * A Chromium with a profile of its own; `args` are added to the usual ones. `bypassCSP` lets pages start workers made of text,
 * which the server's own do not need and may not.
 */
export async function chromium({ args = [], omit = [], bypassCSP = false } = {}) {
  if (!existsSync(CHROMIUM)) throw new Skip(`${CHROMIUM} is not installed`);
  const { chromium: engine } = await import("playwright-core");
  const profile = temporaryDirectory("chromium");
  const browser = await engine.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    bypassCSP,
    ignoreHTTPSErrors: args.includes("--ignore-certificate-errors"),
    args: [...CHROMIUM_ARGUMENTS.filter((argument) => !omit.includes(argument)), ...args],
  });
  cleanup(() => browser.close());
  step("Chromium runs");
  return browser;
}

/** A Firefox, with a sound server of its own: without one it has no working AudioContext. */
export async function firefox() {
  if (!existsSync(FIREFOX)) throw new Skip(`${FIREFOX} is not installed`);
  const { default: puppeteer } = await import("puppeteer-core");
  const env = { ...process.env, ...(await soundServer()) };
  const browser = await puppeteer.launch({
    browser: "firefox",
    executablePath: FIREFOX,
    headless: true,
    env,
    extraPrefsFirefox: FIREFOX_SETTINGS,
  });
  cleanup(() => browser.close());
  step("Firefox runs");
  return browser;
}

async function soundServer() {
  if (!existsSync("/usr/bin/pulseaudio")) {
    step("no pulseaudio: Firefox runs without sound");
    return {};
  }
  const runtime = temporaryDirectory("pulse");
  const env = { XDG_RUNTIME_DIR: runtime, HOME: runtime };
  const server = spawn(
    "/usr/bin/pulseaudio",
    [
      "-n",
      "--daemonize=no",
      "--exit-idle-time=-1",
      "--load=module-null-sink sink_name=n",
      "--load=module-native-protocol-unix",
    ],
    { env: { ...process.env, ...env }, stdio: "ignore" },
  );
  cleanup(() => server.kill("SIGTERM"));
  await until("the sound server", () => existsSync(join(runtime, "pulse", "native")), { timeout: 5_000 }).catch(() =>
    step("the sound server did not start: Firefox runs without sound"),
  );
  return { XDG_RUNTIME_DIR: runtime };
}

export function temporaryDirectory(name) {
  const path = mkdtempSync(join(tmpdir(), `e2e-${name}-`));
  cleanup(() => rmSync(path, { recursive: true, force: true, maxRetries: 5 }));
  return path;
}

/**
 * A page of the server's origin with the helpers in `e2e`. It shows a plain text file of the server, so nothing but
 * the scenario runs in it. Works for Playwright and Puppeteer alike.
 */
export async function blankPage(browser, name, { path = "style.css" } = {}) {
  const page = await browser.newPage();
  watch(page, name);
  await page.goto(new URL(path, serverUrl).href);
  await addHelpers(page);
  return page;
}

export function addHelpers(page) {
  return page.evaluate(IN_PAGE);
}

/** Puts a scripted server in the place of the real one, for all that the page opens from now on. */
export function scriptedServer(page) {
  return page.evaluate(SCRIPTED_SERVER);
}

/** Keeps what a page logs, for the report of a failed story. */
export function watch(page, name) {
  const lines = [];
  page.on("console", (message) => {
    const text = typeof message.text === "function" ? message.text() : String(message);
    lines.push(`${message.type?.() ?? "log"}: ${text}`.slice(0, 1_000));
    if (lines.length > 400) lines.shift();
  });
  page.on("pageerror", (error) => lines.push(`uncaught: ${error.stack ?? error.message}`));
  onFailure(`console of ${name}`, () => lines.slice(-60).join("\n"));
  onFailure(`log of ${name}`, () => page.evaluate(() => globalThis.e2e?.report?.() ?? "(no helpers)"));
  page.e2eLines = lines;
}
