"""The chat page's own script, run by Node.js in a browser of cardboard on a clock of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from holdfast.adapters import webchat_wire as wire
from holdfast.adapters.webchat_page import page

NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="the page's script is run by Node.js")

BROWSER = r"""
const vm = require("vm");
let now = 1.7e12, timers = [], serial = 0;
const out = [];
const told = (value) => out.push(value);

function setTimer(work, wait, every) {
  timers.push({ id: ++serial, at: now + wait, work, every });
  return serial;
}
function clearTimer(id) { timers = timers.filter((timer) => timer.id !== id); }
async function settle() { await new Promise(setImmediate); await new Promise(setImmediate); }
async function pass(seconds, standstill) {
  const end = now + seconds * 1000;
  if (standstill) {
    now = end;
    for (const timer of timers) timer.at = Math.max(timer.at, end);
  }
  for (;;) {
    timers.sort((one, other) => one.at - other.at);
    const next = timers[0];
    if (!next || next.at > end) break;
    now = Math.max(now, next.at);
    if (next.every) next.at = now + next.every; else timers.shift();
    next.work();
    await settle();
  }
  now = end;
}

class Element {
  constructor(tag) {
    Object.assign(this, { tag, own: "", children: [], dataset: {}, style: {}, listeners: {} });
    Object.assign(this, { hidden: false, value: "", className: "", attributes: {}, files: [] });
    Object.assign(this, { scrollTop: 0, scrollHeight: 0, clientHeight: 0 });
  }
  get textContent() { return this.own + this.children.map((child) => child.textContent).join("|"); }
  set textContent(text) { this.own = String(text); this.children = []; }
  append(...more) { this.children.push(...more); }
  replaceChildren(...all) { this.own = ""; this.children = all; }
  addEventListener(what, work) { (this.listeners[what] ??= []).push(work); }
  fire(what, event = {}) {
    for (const work of this.listeners[what] || []) work({ preventDefault() {}, ...event });
  }
  setAttribute(name, value) { this.attributes[name] = value; }
  focus() {} click() {} scrollBy() {}
  all(tag) {
    const below = this.children.flatMap((child) => child.all(tag));
    return [...this.children.filter((child) => child.tag === tag), ...below];
  }
}

class Storage {
  constructor(quota = Infinity) { this.items = new Map(); this.quota = quota; }
  get length() { return this.items.size; }
  key(n) { return [...this.items.keys()][n] ?? null; }
  getItem(key) { return this.items.get(key) ?? null; }
  removeItem(key) { this.items.delete(key); }
  setItem(key, value) {
    let size = value.length;
    for (const [other, held] of this.items) if (other !== key) size += held.length;
    if (size > this.quota) throw new Error("QuotaExceededError");
    this.items.set(key, value);
  }
}

class Tab {
  constructor(storage, { language = "en-GB", search = "" } = {}) {
    const tab = this, elements = new Map(), document = new Element("document");
    Object.assign(this, { sockets: [], blobs: 0, history: [], document });
    this.window = new Element("window");
    document.documentElement = new Element("html");
    document.createElement = (tag) => new Element(tag);
    document.visibilityState = "visible";
    document.getElementById = (id) => {
      if (!elements.has(id)) elements.set(id, new Element(id));
      return elements.get(id);
    };
    this.$ = document.getElementById;
    this.navigator = { language, onLine: true };
    class Socket extends Element {
      constructor(url) {
        super("socket");
        Object.assign(this, { url, readyState: 0, sent: [], closed: false });
        tab.sockets.push(this);
      }
      send(text) { this.sent.push(JSON.parse(text)); }
      close() { this.readyState = 3; this.closed = true; }
      open() { this.readyState = 1; this.fire("open"); }
      async say(frame) { this.fire("message", { data: JSON.stringify(frame) }); await settle(); }
      drop() { this.readyState = 3; this.fire("close"); }
      of(op) { return this.sent.filter((frame) => frame.op === op); }
    }
    vm.runInNewContext(SCRIPT, {
      document, window: this.window, navigator: this.navigator, localStorage: storage,
      location: { pathname: "/chat", protocol: "https:", host: "here", search },
      history: { replaceState: (...change) => tab.history.push(change[2]) },
      WebSocket: Socket, crypto, Blob, URLSearchParams, atob, btoa, console,
      URL: {
        createObjectURL: (blob) => { this.blobs++; return `blob:${blob.type}:${blob.size}`; },
        revokeObjectURL: () => { this.blobs--; },
      },
      Date: class extends Date { static now() { return now; } },
      Math: Object.assign(Object.create(Math), { random: () => 0.5 }),
      setTimeout: (work, wait) => setTimer(work, wait), clearTimeout: clearTimer,
      setInterval: (work, wait) => setTimer(work, wait, wait),
    });
  }
  get socket() { return this.sockets.at(-1); }
  get state() { return this.$("state").textContent; }
  get log() { return this.$("log").children.map((message) => message.children[0].textContent); }
  get meta() { return this.$("log").children.map((message) => message.children[1].textContent); }
  async welcome() {
    this.socket.open();
    await this.socket.say({ op: "welcome", title: "Lab", bot: "Bo", max_text: 20, max_files: 50 });
    return this.socket;
  }
  async write(text, files = []) {
    this.$("text").value = text;
    if (files.length) { this.$("picker").files = files; this.$("picker").fire("change"); }
    this.$("composer").fire("submit");
    await settle();
  }
  async answering(seconds) {
    for (let i = 0; i < seconds; i++) {
      await pass(1);
      if (this.socket.of("ping").length > (this.socket.answered || 0)) {
        this.socket.answered = this.socket.of("ping").length;
        await this.socket.say({ op: "pong" });
      }
    }
  }
}
"""


def run(scenario: str) -> Any:
    """What a scenario told, as a list."""
    script = page().decode().split("<script>")[1].split("</script>")[0]
    program = (
        f"const SCRIPT = {json.dumps(script)};\n{BROWSER}\n"
        f"(async () => {{\n{scenario}\nprocess.stdout.write(JSON.stringify(out));\n"
        "process.exit(0);\n})().catch((error) => { console.error(error); process.exit(1); });"
    )
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-"], input=program, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_browser_stays_the_same_visitor_and_connects_securely() -> None:
    url, first, again, other, title, state = run("""
        const storage = new Storage();
        const tab = new Tab(storage), socket = await tab.welcome();
        const again = await new Tab(storage).welcome();
        const other = await new Tab(new Storage()).welcome();
        told(socket.url);
        for (const one of [socket, again, other]) told(one.of("hello")[0].visitor);
        told(tab.$("title").textContent);
        told(tab.state);
    """)
    assert url == "wss://here/chat"
    assert len(first) == 32
    assert first == again != other
    assert (title, state) == ("Lab", "Connected")


def test_the_gateway_understands_all_that_the_page_says() -> None:
    frames = run("""
        const tab = new Tab(new Storage(), { search: "?token=t" }), socket = await tab.welcome();
        await socket.say({ op: "message", id: "k", text: "hi" });
        await tab.write("yes", [{ name: "a".repeat(300), type: "", size: 3,
          arrayBuffer: async () => new Uint8Array([1, 2, 3]).buffer }]);
        await socket.say({ op: "stored", id: socket.of("say")[0].id });
        await pass(6);
        socket.drop();
        await pass(1);
        out.push(...socket.sent, ...(await tab.welcome()).sent);
    """)
    parsed = [wire.parse(json.dumps(frame)) for frame in frames]
    hello, seen, say, ping, again = parsed
    assert isinstance(hello, wire.Hello)
    assert isinstance(seen, wire.Seen)
    assert isinstance(say, wire.Say)
    assert isinstance(ping, wire.Ping)
    assert isinstance(again, wire.Hello)
    assert (hello.token, again.seen, again.visitor) == ("t", ("k",), hello.visitor)
    assert (say.text, say.files[0].data, wire.problem(say)) == ("yes", b"\x01\x02\x03", None)
    assert wire.inbound("c", say, 1.8e9).at == 1.8e9


def test_the_page_tells_how_old_a_message_is_each_time_it_sends_it() -> None:
    ages = run("""
        const tab = new Tab(new Storage());
        await tab.write("kept");
        await pass(300);
        const age = (socket) => socket.of("say")[0].age;
        let socket = await tab.welcome();
        told(age(socket));
        await pass(10);
        socket.drop();
        await pass(2);
        socket = await tab.welcome();
        told(age(socket));
    """)
    assert ages == [300, 312]


def test_a_clock_that_was_set_back_makes_no_message_of_the_future() -> None:
    assert run("""
        const tab = new Tab(new Storage());
        await tab.write("kept");
        now -= 3_600_000;
        told((await tab.welcome()).of("say")[0].age);
    """) == [0]


def test_the_page_understands_all_that_the_gateway_says() -> None:
    file = wire.File("a.bin", "x/y", b"abc")
    frames: list[wire.ToPage] = [
        wire.Welcome("Lab", "Bo", 20, 50),
        wire.Typing(),
        wire.Pong(),
        wire.Message("k", "draft", (file,), reply_to="nothing"),
        wire.Message("k2", "done", edit_of="k"),
        wire.Error(wire.Problem.FRAME),
    ]
    told = run(f"""
        const tab = new Tab(new Storage());
        tab.socket.open();
        for (const frame of {json.dumps([wire.encode(frame) for frame in frames])}) {{
          await tab.socket.say(JSON.parse(frame));
        }}
        told([tab.state, tab.$("title").textContent, tab.log, tab.meta[0].split(" · ")[0]]);
        await tab.write("one");
        const key = tab.socket.of("say")[0].id;
        const stored = {json.dumps(wire.encode(wire.Stored("KEY")))};
        await tab.socket.say(JSON.parse(stored.replace("KEY", key)));
        told(tab.meta[1].split(" · ")[2]);
        const refused = {json.dumps(wire.encode(wire.Refused(wire.Refusal.TABS)))};
        await tab.socket.say(JSON.parse(refused));
        told(tab.$("notice").textContent.slice(0, 14));
    """)
    assert told == [
        ["Connected", "Lab", ["done|⬇ a.bin"], "Bo"],
        "Received",
        "Too many pages",
    ]


def test_what_was_not_stored_is_repeated_over_reconnect_and_reload_one_at_a_time() -> None:
    assert run("""
        const storage = new Storage();
        const tab = new Tab(storage);
        await tab.write("one");
        now += 1;
        await tab.write("two");
        const texts = (socket) => socket.of("say").map((say) => say.text);
        let socket = await tab.welcome();
        told(texts(socket));
        socket.drop();
        await pass(1);
        socket = await tab.welcome();
        told(texts(socket));
        await socket.say({ op: "stored", id: socket.of("say")[0].id });
        told(texts(socket));
        told(tab.meta.map((meta) => meta.split(" · ")[2]));
        socket = await new Tab(storage).welcome();
        told(texts(socket));
        await socket.say({ op: "stored", id: socket.of("say")[0].id });
        told(texts(await new Tab(storage).welcome()));
    """) == [["one"], ["one"], ["one", "two"], ["Received", "Not sent yet"], ["two"], []]


def test_a_message_is_shown_once_confirmed_each_time_and_named_in_the_next_hello() -> None:
    log, seen, known, reloaded, forgotten = run("""
        const storage = new Storage(), tab = new Tab(storage), socket = await tab.welcome();
        for (let i = 0; i < 2; i++) await socket.say({ op: "message", id: "k", text: "hi" });
        told(tab.log);
        told(socket.of("seen").map((seen) => seen.id));
        const again = new Tab(storage);
        told((await again.welcome()).of("hello")[0].seen);
        await again.socket.say({ op: "message", id: "k", text: "hi" });
        told(again.log);
        storage.removeItem([...storage.items.keys()].find((key) => key.endsWith("m k")));
        const last = new Tab(storage);
        await last.welcome();
        await last.socket.say({ op: "message", id: "k", text: "hi" });
        told(last.log);
    """)
    assert (log, seen, known, reloaded) == (["hi"], ["k", "k"], ["k"], ["hi"])
    assert forgotten == []


def test_every_tab_shows_what_came_and_what_was_said() -> None:
    assert run("""
        const storage = new Storage(), one = new Tab(storage), two = new Tab(storage);
        for (const tab of [one, two]) await tab.welcome();
        for (const tab of [one, two]) await tab.socket.say({ op: "message", id: "k", text: "hi" });
        await one.write("yes");
        const key = [...storage.items.keys()].find((key) => storage.items.get(key).includes("yes"));
        two.window.fire("storage", { key, newValue: storage.getItem(key) });
        told(one.log);
        told(two.log);
    """) == [["hi", "yes"], ["hi", "yes"]]


def test_an_edit_replaces_and_a_quote_is_shown() -> None:
    assert run("""
        const storage = new Storage(), tab = new Tab(storage), socket = await tab.welcome();
        await tab.write("what?");
        const id = socket.of("say")[0].id;
        await socket.say({ op: "message", id: "k", text: "thi", reply_to: id });
        await socket.say({ op: "message", id: "k2", text: "this", edit_of: "k" });
        told(tab.log);
        told(tab.meta[1].includes("edited"));
        told(socket.of("seen").map((seen) => seen.id));
        told(new Tab(storage).log);
    """) == [["what?", "what?|this"], True, ["k", "k2"], ["what?", "what?|this"]]


def test_text_stays_text_and_code_stays_code() -> None:
    assert run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        await socket.say({ op: "message", id: "k", text: "<b>a</b>\\n```py\\nx <y\\n```\\nend" });
        const bubble = tab.$("log").children[0].children[0];
        told(bubble.children.map((part) => [part.tag, part.textContent]));
    """) == [[["p", "<b>a</b>"], ["pre", "x <y"], ["p", "end"]]]


def test_pictures_are_shown_and_no_file_keeps_a_type_that_could_act() -> None:
    image, link = run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        const files = [{ name: "a.png", mime: "image/png", data: "iVBO" },
                       { name: "b.html", mime: "text/html", data: "PGI+" }];
        await socket.say({ op: "message", id: "k", files });
        const log = tab.$("log");
        told([log.all("img")[0].src, log.all("img")[0].alt]);
        told([log.all("a")[0].href, log.all("a")[0].download]);
    """)
    assert image == ["blob:image/png:3", "a.png"]
    assert link == ["blob:application/octet-stream:3", "b.html"]


def test_files_go_with_the_message_within_the_limits() -> None:
    files, notices, blobs = run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        const file = (size) => ({ name: "a.bin", type: "x/y", size,
          arrayBuffer: async () => new Uint8Array(size).fill(255).buffer });
        await tab.write("", [file(3)]);
        told(socket.of("say")[0].files);
        await socket.say({ op: "stored", id: socket.of("say")[0].id });
        await tab.write("", [file(51)]);
        const notices = [tab.$("notice").textContent];
        tab.$("files").all("button")[0].fire("click");
        await tab.write("x".repeat(21));
        told([...notices, tab.$("notice").textContent, socket.of("say").length]);
        told(tab.blobs);
    """)
    assert blobs == 1, "a message drawn anew lets go of the files it showed"
    assert files == [{"name": "a.bin", "mime": "x/y", "data": "////"}]
    assert notices == [
        "Not sent: the files are too large together",
        "Not sent: the text is too long",
        1,
    ]


def test_what_the_gateway_will_not_take_is_told_and_holds_up_nothing() -> None:
    assert run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        await tab.write("bad");
        now += 1;
        await tab.write("good");
        await socket.say({ op: "error", what: "text_too_long", id: socket.of("say")[0].id });
        told(tab.meta[0].split(" · ")[2]);
        told(socket.of("say").map((say) => say.text));
    """) == ["Not sent: the text is too long", ["bad", "good"]]


def test_a_dead_gateway_is_noticed_within_15_s_and_a_living_one_kept() -> None:
    kept, before, after, closed = run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        await tab.answering(120);
        told([tab.sockets.length, tab.state]);
        await pass(4);
        told(tab.state);
        await pass(11);
        told(tab.state);
        told(socket.closed);
    """)
    assert kept == [1, "Connected"]
    assert (before, after, closed) == ("Connected", "Reconnecting …", True)


def test_a_clock_that_stood_still_convicts_nobody() -> None:
    sockets, pings = run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        await pass(6);
        await pass(3600, true);
        await pass(1);
        told(tab.sockets.length);
        told(socket.of("ping").length);
    """)
    assert (sockets, pings) == (1, 2)


def test_it_comes_back_by_a_growing_delay_and_at_once_when_the_network_is_back() -> None:
    dials, online = run("""
        const tab = new Tab(new Storage());
        const dials = [];
        for (let i = 0; i < 8; i++) {
          const began = now, count = tab.sockets.length;
          tab.socket.drop();
          while (tab.sockets.length === count) await pass(0.05);
          dials.push((now - began) / 1000);
        }
        told(dials);
        tab.socket.drop();
        const count = tab.sockets.length;
        tab.window.fire("online");
        told(tab.sockets.length - count);
    """)
    assert 0.2 <= dials[0] <= 0.6
    assert all(delay <= 10.1 for delay in dials)
    assert min(dials[-3:]) >= 4.9
    assert online == 1


def test_a_dial_that_hangs_is_given_up() -> None:
    assert run("""
        const tab = new Tab(new Storage());
        await pass(13);
        told([tab.sockets[0].closed, tab.sockets.length]);
    """) == [[True, 2]]


def test_a_token_is_taken_from_the_address_once_and_a_wrong_one_is_asked_for() -> None:
    address, hello, wrong, after, forgotten, right = run("""
        const storage = new Storage(), tab = new Tab(storage, { search: "?token=old" });
        told(tab.history);
        tab.socket.open();
        told(tab.socket.of("hello")[0].token);
        await tab.socket.say({ op: "refused", what: "token" });
        told([tab.$("gate-text").textContent, tab.$("gate").hidden, tab.$("composer").hidden]);
        await pass(3600);
        told(tab.sockets.length);
        told((await new Tab(storage).welcome()).of("hello")[0].token);
        tab.$("token").value = "new";
        tab.$("gate").fire("submit");
        tab.socket.open();
        told([tab.socket.of("hello")[0].token, tab.$("gate").hidden, tab.sockets.length]);
    """)
    assert address == ["/chat"]
    assert hello == "old"
    assert wrong == ["That token is not right.", False, True]
    assert (after, forgotten) == (1, "")
    assert right == ["new", True, 2]


def test_who_is_sent_away_for_a_flood_comes_back_later() -> None:
    assert run("""
        const tab = new Tab(new Storage());
        await tab.welcome();
        await tab.socket.say({ op: "refused", what: "flood" });
        told(tab.state.startsWith("Too much"));
        await pass(9);
        told(tab.sockets.length);
        await pass(2);
        told(tab.sockets.length);
    """) == [True, 1, 2]


def test_a_full_memory_drops_old_files_and_never_what_is_not_stored() -> None:
    waiting, kept, pending = run("""
        const storage = new Storage(3000), tab = new Tab(storage), socket = await tab.welcome();
        const files = [{ name: "f", mime: "x/y", data: "A".repeat(2000) }];
        await socket.say({ op: "message", id: "k", text: "", files });
        now += 1;
        await tab.write("y".repeat(20), [{ name: "g", type: "x/y", size: 40,
          arrayBuffer: async () => new Uint8Array(900).buffer }]);
        told(JSON.parse(storage.getItem(storage.key(storage.length - 1))).state);
        told(new Tab(storage).log[0]);
        told((await new Tab(storage).welcome()).of("say").length);
    """)
    assert waiting == "waiting"
    assert "no longer held" in kept
    assert pending == 1


def test_without_any_storage_it_works_and_says_so() -> None:
    notice, log, same = run("""
        const tab = new Tab(new Storage(0));
        const first = (await tab.welcome()).of("hello")[0].visitor;
        told(tab.$("notice").textContent);
        await tab.socket.say({ op: "message", id: "k", text: "hi" });
        told(tab.log);
        tab.socket.drop();
        await pass(1);
        told((await tab.welcome()).of("hello")[0].visitor === first);
    """)
    assert "keep the page open" in notice
    assert (log, same) == (["hi"], True)


def test_enter_sends_but_not_in_the_middle_of_composing() -> None:
    assert run("""
        const tab = new Tab(new Storage()), socket = await tab.welcome();
        const press = async (event) => {
          tab.$("text").value = "你好";
          tab.$("text").fire("keydown", { key: "Enter", ...event });
          await settle();
          told(socket.of("say").length);
        };
        await press({ isComposing: true });
        await press({ shiftKey: true });
        await press({});
    """) == [0, 0, 1]


def test_it_speaks_the_visitors_language_and_tells_who_is_writing() -> None:
    assert run("""
        const tab = new Tab(new Storage(), { language: "zh-CN" });
        told([tab.state, tab.document.documentElement.lang]);
        await tab.welcome();
        await tab.socket.say({ op: "typing" });
        told([tab.$("typing").textContent, tab.$("typing").hidden]);
        await tab.answering(7);
        told(tab.$("typing").hidden);
    """) == [["正在连接…", "zh"], ["Bo 正在输入…", False], True]
