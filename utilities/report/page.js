"use strict";
const find = id => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const root = document.documentElement, darkScreen = matchMedia("(prefers-color-scheme: dark)");
const setTheme = theme => { root.dataset.theme = theme; };
find("theme").onclick = () => {
  const now = root.dataset.theme || (darkScreen.matches ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
};
