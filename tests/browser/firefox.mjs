// Use the web form in Firefox, over WebDriver BiDi.
// Input: JSON with the members that are read below. Output: JSON, what the page showed.
import {existsSync} from 'node:fs';
import {text} from 'node:stream/consumers';
import {setTimeout} from 'node:timers/promises';
import puppeteer from 'puppeteer-core';

const {url, csr, apiKey, wrongApiKey, requests, downloads} = JSON.parse(await text(process.stdin));
const browser = await puppeteer.launch({
  browser: 'firefox', executablePath: '/usr/bin/firefox-esr',
  extraPrefsFirefox: {'browser.download.folderList': 2, 'browser.download.dir': downloads}
});
const page = await browser.newPage();
const messages = [];
page.on('console', message => messages.push(message.text()));
page.on('pageerror', error => messages.push(error.message));

const read = selector => page.$eval(selector, element => element.innerText);
async function waitFor(condition, what) {
  for (const end = Date.now() + 20000; !await condition(); await setTimeout(50)) {
    if (Date.now() > end) throw new Error('timeout: ' + what + '; status: ' + await read('#status') + '; messages: ' + messages);
  }
}
const waitForText = (selector, words) => waitFor(async () => (await read(selector)).includes(words), selector + ': ' + words);
async function paste(selector, words) {
  await page.focus(selector);
  await page.evaluate(words => document.execCommand('insertText', false, words), words);
}
async function send(key, words) {
  await paste('#key', key);
  await page.click('#send');
  await waitForText('#status', words);
}
async function download(selector, name) {
  await page.click(selector);
  await waitFor(() => existsSync(downloads + '/' + name) && !existsSync(downloads + '/' + name + '.part'), name);
}

const shown = {};
try {
  await page.goto(url);
  await paste('#csr', csr);
  await send(wrongApiKey, 'Not signed');
  shown.refusal = await page.evaluate(() => {
    const key = document.activeElement;
    const error = document.getElementById(key.getAttribute('aria-describedby')).innerText;
    return {field: key.id, error, invalid: key.getAttribute('aria-invalid')};
  });
  shown.messages = messages.splice(0);

  await page.goto(url);
  await paste('#csr', csr);
  await send(apiKey, 'Signed');
  shown.facts = await read('#facts');
  await download('#save-bundle', 'www.example.com.pem');

  for (const {kind, name, password} of requests) {
    await page.goto(url);
    await page.click('#create-tab');
    await paste('#names', name);
    await page.select('#kind', kind);
    if (password) await paste('#password', password);
    await page.click('#generate');
    await waitForText('#create-status', 'Created');
    await download('#save-key', name + '.key');
    await send(apiKey, 'Signed');
    await download('#save-bundle', name + '.pem');
  }
  shown.messages.push(...messages.splice(0));

  await page.evaluate(() => document.body.append(document.createElement('script').appendChild(new Text('1')).parentNode));
  await waitFor(() => messages.length, 'a message about the script');
  shown.violation = messages[0];
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(shown));
