'use strict';
// Links are relative to the stage or base path, which the page knows from its own path.
const base = location.pathname.replace(/\/+$/, '').slice(0, -document.documentElement.dataset.path.length || undefined);
for (const link of document.querySelectorAll('a[href^="./"]')) link.href = base + link.getAttribute('href').slice(1);
// Escape control characters and bidirectional marks, which could disguise text.
const plain = text => text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g,
  char => '\\u' + char.codePointAt(0).toString(16).padStart(4, '0'));
async function loadJson(path) {
  const response = await fetch(base + path);
  if (!response.ok) throw new Error('HTTP ' + response.status);
  return response.json();
}
const loadedCa = loadJson('/ca').catch(() => null);
loadedCa.then(ca => {
  if (ca) document.getElementById('ca-name').textContent = plain(ca.subject.replace(/^.*?CN=((?:\\.|[^,+\\])*).*$/, (whole, name) => name.replace(/\\(.)/g, '$1')));
});
