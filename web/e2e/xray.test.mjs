// The Xray that the daemon runs for its routes, by the page alone: a real one, whose
// path is in XRAY, through proxies of the lab's internet. scripts/ui.sh builds it.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { axeFindings, browser, go, open } from './browser.mjs'
import { lab } from './lab.mjs'
import { catalogues, layoutFindings } from './layout.mjs'

const example = join(import.meta.dirname, '../../examples/xray-two-tunnels')
const [one] = readFileSync(join(example, 'links.txt'), 'utf8').split('\n')
let l, b, page
before(async () => {
  assert.ok(process.env.XRAY, 'XRAY names the program')
  ;[l, b] = await Promise.all([lab({ policy: 'examples/xray-two-tunnels/policy.yaml', path: dirname(process.env.XRAY) }), browser()])
  page = await open(b, l.url)
  page.setDefaultTimeout(120_000)
  await page.goto(`${l.url}#/login?token=${l.token}`)
  await page.locator('h1#page', { hasText: 'Connections' }).waitFor()
  l.say('xray start one server-one.json')
  l.say('xray start two server-two.json')
  await go(page, 'xray', 'Xray')
})
after(async () => {
  await b?.close()
  await l?.close()
})

const manager = () => page.locator('[data-test=manager]')
// state is what the page says of it, and the number of its process; 0 where none runs.
const state = async () => ({
  is: await manager().locator('header .tag').textContent(),
  pid: Number(/PID (\d+)/.exec(await manager().locator('header').textContent())?.[1] ?? 0),
})
const alive = (pid) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
const becomes = (is) => manager().locator('header .tag', { hasText: is }).waitFor()
// carries waits until both proxies have answered through their tunnels.
const carries = () => page.waitForFunction(() => [...document.querySelectorAll('[data-test=manager] tbody tr td:last-child')].filter((e) => /\d/.test(e.textContent)).length === 2)

test('it runs, with its version, its process and its last words', async () => {
  await becomes('running')
  await manager().locator('header .mono', { hasText: /^26\.3\./ }).waitFor()
  const { pid } = await state()
  assert.equal(readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), 'xray')
  await carries()
  const rows = manager().locator('tbody tr')
  assert.equal(await rows.count(), 2)
  assert.match(await rows.first().textContent(), /one.*One.*in use.*203\.0\.113\.1:8388/)
  await manager().getByText('Logs').click()
  await manager().locator('pre', { hasText: /Xray 26\.3\.\d+ started/ }).waitFor()
})

test('it is started anew, stopped and started', async () => {
  const first = await state()
  await manager().getByRole('button', { name: 'Restart' }).click()
  await page.waitForFunction((pid) => {
    const said = document.querySelector('[data-test=manager] header').textContent
    return said.includes('running') && /PID \d/.test(said) && !said.includes(`PID ${pid}`)
  }, first.pid)
  assert.equal(alive(first.pid), false)
  const second = await state()
  await carries()
  await manager().getByRole('button', { name: 'Stop' }).click()
  await becomes('stopped')
  assert.equal((await state()).pid, 0)
  assert.equal(alive(second.pid), false)
  assert.equal(await manager().getByRole('button', { name: 'Stop' }).isDisabled(), true)
  await manager().getByRole('button', { name: 'Start' }).click()
  await becomes('running')
  await carries()
  // The log that is open has gone on.
  await page.waitForFunction(() => document.querySelector('[data-test=manager] pre').textContent.match(/Xray 26\.3\.\d+ started/g)?.length >= 3)
})

test('a server that ends shows', async () => {
  l.say('xray stop one')
  const row = manager().locator('tbody tr', { hasText: 'One' })
  await row.locator('.tag.bad', { hasText: 'down' }).waitFor()
  await manager().locator('tbody tr', { hasText: 'Two' }).locator('.tag', { hasText: 'in use' }).waitFor()
  l.say('xray start one server-one.json')
  await row.locator('.tag.bad').waitFor({ state: 'detached' })
})

test('a link is tried with a page of ours: the times of its steps, or the reason', async () => {
  const trial = page.locator('[data-test=trial]')
  const button = trial.getByRole('button', { name: 'Try it with Xray' })
  const entry = trial.getByLabel('Page to ask for')
  await page.getByRole('textbox', { name: 'Text', exact: true }).fill(one)
  // The browser asks for an address of a page, and the daemon for one of HTTP.
  for (const bad of ['no page', 'ftp://198.51.100.41/', 'javascript:alert(1)']) {
    await entry.fill(bad)
    await button.click()
    assert.equal(await entry.evaluate((e) => e.checkValidity()), false, bad)
  }
  const refused = await page.evaluate((link) => fetch('api/v1/xray-test', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ link, url: 'ftp://198.51.100.41/' }) }).then(async (r) => [r.status, (await r.json()).detail]), one)
  assert.equal(refused[0], 400)
  assert.match(refused[1], /want a URL of http or https/)
  await entry.fill('http://198.51.100.41:8000/')
  await button.click()
  await trial.locator('.note.ok').waitFor()
  const said = await trial.locator('.note.ok').textContent()
  for (const step of ['Start of Xray', 'Connection to the server', 'First byte of a page', 'All of the page']) assert.match(said, new RegExp(`${step}[\\d.,]+ ms`))
  assert.match(said, /Answer204, 0B/)
  // Nobody serves there.
  await entry.fill('http://198.51.100.41:9/')
  await button.click()
  await trial.locator('.note.error').waitFor()
  assert.ok((await trial.locator('.note.error p').textContent()).length > 10)
  // And the profile's own server does not either.
  await page.getByRole('textbox', { name: 'Text', exact: true }).fill('ss://aes-256-gcm:example@127.0.0.1:9#closed')
  await page.waitForFunction(() => document.getElementById('x-#host')?.value === '127.0.0.1')
  await button.click()
  await trial.getByText("nobody listens on the server's port").waitFor()
})

test('it is sound in every language, light, dark and on a phone', async () => {
  const wrong = []
  for (const language of Object.keys(catalogues)) {
    await page.evaluate(() => (location.hash = '#/settings'))
    await page.locator('main select').first().selectOption(language)
    await page.locator(`html[lang=${language}] h1#page`, { hasText: catalogues[language]['nav.settings'] }).waitFor()
    await page.evaluate(() => (location.hash = '#/xray'))
    await manager().locator('summary').click()
    await manager().locator('pre').waitFor()
    for (const [name, colorScheme, width] of [['light', 'light', 1280], ['dark', 'dark', 1280], ['phone', 'light', 390]]) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      await page.setViewportSize({ width, height: 800 })
      if (process.env.SHOTS_ALL) await page.screenshot({ path: join(process.env.SHOTS_ALL, `${language}-manager-${name}.png`) })
      wrong.push(...[...(await layoutFindings(page)), ...(await axeFindings(page))].map((f) => `${language}, ${name}: ${f}`))
    }
  }
  wrong.push(...(await page.wrong()))
  assert.deepEqual(wrong, [])
})
