// Elements. Whatever comes from outside becomes text, never markup.

/** An element: `h("p.quiet", {id: "x", onclick: act}, "text", child)`. */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  node.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set a text, touching the page only if it is a new one; an empty one hides its element. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  show(node, text !== "");
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Show a text whose `parts in backticks` are to be typed as they are. */
export function sayMarked(node, text) {
  if (node.dataset.text !== text) {
    node.dataset.text = text;
    const parts = text.split("`");
    node.replaceChildren(...parts.map((part, i) => (i % 2 ? h("code", {}, part) : part)));
  }
  show(node, text !== "");
}

/** Make the children of a node those given, moving no more than must be; focus stays. */
export function arrange(parent, nodes) {
  const focused = document.activeElement;
  let next = parent.firstChild;
  for (const node of nodes) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
  if (focused !== document.activeElement && parent.contains(focused)) {
    focused.focus({ preventScroll: true });
  }
}

/** Lines of a table whose first cells head them, as a description list that can be updated. */
export class Facts {
  #lines = new Map();

  constructor() {
    this.node = h("dl.facts");
  }

  /** Show a fact under its word; an empty one is left out. */
  set(word, text) {
    let line = this.#lines.get(word);
    if (!line) {
      if (!text) return;
      line = { line: h("div", {}, h("dt", {}, word)), value: h("dd") };
      line.line.append(line.value);
      this.#lines.set(word, line);
      this.node.append(line.line);
    }
    sayMarked(line.value, text);
    show(line.line, text !== "");
  }
}
