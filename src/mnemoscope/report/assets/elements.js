"use strict";
// Elements, files and numbers. Text becomes text nodes only: nothing here, or in any other file, parses markup.
globalThis.mnemoscope = {};
(() => {
  const MINUS = "\u2212";

  /** An element with its attributes and children. `on` holds listeners; null and false leave an attribute out. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "on") {
        for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
      } else if (value !== null && value !== undefined && value !== false) {
        made.setAttribute(name, value === true ? "" : String(value));
      }
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  /** A select of [value, words] pairs. */
  function select(attributes, pairs) {
    return element("select", attributes, pairs.map(([value, words]) => element("option", { value }, words)));
  }

  /** A number as a reader wants it: whole ones with separators, others with four digits; null as a dash. */
  function showNumber(value, digits = 4) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en-US").replace("-", MINUS);
    const size = Math.abs(value);
    const text = size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(1);
    return text.replace(/-/g, MINUS);
  }

  /** The probability of a log-probability in nats, with two digits, also where no float is small enough. */
  function showProbability(logProbability) {
    if (logProbability === null || logProbability === undefined) return "?";
    const exponent = logProbability / Math.LN10;
    if (exponent > -3) return String(Number(Math.exp(logProbability).toPrecision(2)));
    const whole = Math.floor(exponent);
    return `${(10 ** (exponent - whole)).toFixed(1)}e${MINUS}${-whole}`;
  }

  /** Hand a file to the reader. */
  function saveFile(name, type, content) {
    const blob = content instanceof Blob ? content : new Blob([content], { type });
    const address = URL.createObjectURL(blob);
    const link = element("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  /** Copy a text, and say so on the button for a moment. */
  async function copyText(text, button) {
    let isCopied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      isCopied = copyBySelection(text);
    }
    const words = button.textContent;
    button.textContent = isCopied ? "Copied" : "Not allowed here";
    button.disabled = true;
    setTimeout(() => {
      button.textContent = words;
      button.disabled = false;
    }, 1200);
  }

  /** The old way, for browsers that keep the clipboard from local files. */
  function copyBySelection(text) {
    const area = element("textarea", { class: "off-screen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }

  /** Letters, digits, dots and dashes of a name: fit for a file. */
  const fileName = (...parts) => parts.join("-").replace(/[^\w.@-]+/g, "-");

  Object.assign(mnemoscope, { element, select, showNumber, showProbability, saveFile, copyText, fileName });
})();
