// A daemon that stands still or has gone: the page says so, and goes on by itself when
// it is back. And the interface can be installed: its manifest and icon are served
// under its own policy.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { axeFindings, browser, open } from './browser.mjs'
import { lab } from './lab.mjs'
import { layoutFindings } from './layout.mjs'

let l, b, page, pid
before(async () => {
  ;[l, b] = await Promise.all([lab(), browser()])
  page = await open(b, l.url)
  page.setDefaultTimeout(60_000)
  await page.goto(`${l.url}#/login?token=${l.token}`)
  await page.locator('.table .rows [role=row]').first().waitFor()
  pid = JSON.parse(l.run('status', '-o', 'json')).pid
})
after(async () => {
  await b?.close()
  await l?.close()
})

const silent = () => page.getByRole('alert').filter({ hasText: 'netpolicyd does not answer. This page tries again by itself.' })
const isLive = async () => {
  await page.locator('.strip .live', { hasText: 'live' }).waitFor()
  await silent().waitFor({ state: 'detached' })
}

test('a daemon that stands still is told, and the page goes on with it', async () => {
  await isLive()
  process.kill(pid, 'SIGSTOP')
  try {
    await silent().waitFor()
    await page.locator('.strip .live', { hasText: 'connection lost' }).waitFor()
    assert.deepEqual([...(await axeFindings(page)), ...(await layoutFindings(page))], [])
  } finally {
    process.kill(pid, 'SIGCONT')
  }
  await isLive()
  // What is shown is of now: a line that gets slow shows.
  l.say('fault wan1 delay 300ms')
  await page.locator('.strip .state.bad').first().waitFor()
  l.say('heal wan1')
})

test('a daemon that was killed is told; another one asks for the token', async () => {
  l.say('daemon kill')
  await silent().waitFor()
  l.say('daemon start')
  // Sessions end with the daemon that gave them.
  await page.getByLabel('Token').fill(l.token)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.locator('.table .rows [role=row]').first().waitFor()
  await isLive()
})

test('the interface can be installed', async () => {
  const { url, data, errors } = await (await page.context().newCDPSession(page)).send('Page.getAppManifest')
  assert.deepEqual(errors, [])
  assert.equal(url, `${l.url}manifest.webmanifest`)
  const { name, display, icons } = JSON.parse(data)
  assert.deepEqual({ name, display }, { name: 'netpolicy', display: 'standalone' })
  for (const icon of icons) {
    const answer = await page.request.get(new URL(icon.src, url).href)
    assert.equal(answer.headers()['content-type'], icon.type)
  }
  assert.ok(icons.length > 0)
  // A daemon that is away is an error of the console; there is no other.
  assert.deepEqual((await page.wrong()).filter((w) => !/net::ERR_/.test(w)), [])
})
