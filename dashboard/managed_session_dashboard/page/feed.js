// Loads the board, then follows its changes. Reconnects by itself, and goes on where it was.

const FIRST_DELAY = 1000;
const MAX_DELAY = 15000;

export class Feed {
  // handlers: onLoad(board), onChanges(changes, position), onState(state), onSession(name), onLive(live), onSignedOut(), onViewer(viewer)
  constructor(handlers) {
    this.on = handlers;
    this.source = null;
    this.position = "";
    this.session = "";
    this.delay = FIRST_DELAY;
    this.timer = 0;
    this.ended = false;
  }

  async start() {
    if (this.ended) return;
    try {
      const board = await this.read("api/board");
      this.position = board.position;
      this.on.onLoad(board);
      this.open();
    } catch (error) {
      this.failed(error, () => this.start());
    }
  }

  // Follow the page of one session too ("" for none).
  follow(session) {
    if (session === this.session) return;
    this.session = session;
    if (this.position) this.open();
  }

  open() {
    clearTimeout(this.timer);
    this.source?.close();
    const query = new URLSearchParams({ since: this.position, session: this.session });
    const source = new EventSource(`api/stream?${query}`);
    this.source = source;
    source.addEventListener("open", () => {
      this.delay = FIRST_DELAY;
      this.on.onLive(true);
    });
    source.addEventListener("changes", (event) => {
      this.position = event.lastEventId;
      this.on.onChanges(JSON.parse(event.data), this.position);
    });
    source.addEventListener("state", (event) => this.on.onState(JSON.parse(event.data)));
    source.addEventListener("session", (event) => this.on.onSession(JSON.parse(event.data).name));
    source.addEventListener("reload", () => {
      source.close();
      this.start();
    });
    source.addEventListener("signed-out", () => this.end());
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      source.close();
      // An EventSource does not tell why: ask.
      this.read("api/viewer").then(
        () => this.retry(() => this.open()),
        (error) => this.failed(error, () => this.open()),
      );
    });
  }

  failed(error, again) {
    if (error instanceof SignedOut) this.end();
    else this.retry(again);
  }

  retry(again) {
    if (this.ended) return;
    this.on.onLive(false);
    clearTimeout(this.timer);
    this.timer = setTimeout(again, this.delay * (0.75 + Math.random() / 2));
    this.delay = Math.min(2 * this.delay, MAX_DELAY);
  }

  end() {
    if (this.ended) return;
    this.ended = true;
    clearTimeout(this.timer);
    this.source?.close();
    this.on.onSignedOut();
  }

  async read(path) {
    const answer = await fetch(path, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (answer.status === 401) throw new SignedOut();
    if (answer.status === 404) return null;
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return answer.json();
  }
}

class SignedOut extends Error {}
