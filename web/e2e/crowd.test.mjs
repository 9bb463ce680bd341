// What needs many connections that come and go, or a daemon or a line that fails in a
// certain way: the page stands still under the pointer, obeys the keys, and says what is
// missing. The daemon is the one of crowd.mjs.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, afterEach, before, beforeEach, test } from 'node:test'
import { axeFindings, browser, go, open } from './browser.mjs'
import { crowd } from './crowd.mjs'
import { layoutFindings } from './layout.mjs'

let served, b, page
before(async () => {
  ;[served, b] = await Promise.all([crowd(join(import.meta.dirname, '../dist'), { count: 500, changes: 100 }), browser()])
})
after(async () => {
  await b?.close()
  await served?.close()
})
// Every test has a page of its own, on the connections.
beforeEach(async () => {
  page = await open(b, served.url)
  page.setDefaultTimeout(60_000)
  await page.goto(served.url)
  await row().waitFor()
})
afterEach(() => page.context().close())

const row = () => page.locator('.table .rows [role=row]').first()
const grid = () => page.locator('[role=grid]')
const focused = (selector) => page.waitForFunction((s) => document.activeElement?.matches(s), selector)
const phone = () => page.setViewportSize({ width: 390, height: 780 })
const note = (text) => page.getByRole('alert').filter({ hasText: text })
const sound = async () => assert.deepEqual([...(await axeFindings(page)), ...(await layoutFindings(page)), ...(await page.wrong())], [])

test('rows that are looked at stay where they are', async () => {
  const moved = await grid().evaluate(async (e) => {
    e.scrollTop = 600
    const frame = () => new Promise(requestAnimationFrame)
    for (let i = 0; i < 3; i++) await frame()
    const middle = e.getBoundingClientRect().top + e.clientHeight / 2
    const seen = [...e.querySelectorAll('.rows [role=row]')].find((r) => r.getBoundingClientRect().bottom > middle)
    const at = () => [Number(seen.getAttribute('aria-rowindex')), Math.round(seen.getBoundingClientRect().top)]
    const [index, top] = at()
    const tops = new Set([top])
    while (seen.isConnected && at()[0] < index + 20) {
      await frame()
      tops.add(at()[1])
    }
    return [...tops].length
  })
  assert.equal(moved, 1)
  // Another order is looked at from where it is.
  await page.getByRole('button', { name: 'Name' }).click()
  assert.ok((await grid().evaluate((e) => e.scrollTop)) >= 600)
})

test('the keys choose rows while the details are open, and close them', async () => {
  await page.getByRole('button', { name: 'Pause' }).click()
  await grid().focus()
  await page.keyboard.press('ArrowDown')
  await page.keyboard.press('Enter')
  await focused('.details button')
  await grid().focus()
  for (const n of [2, 3, 4]) {
    await page.keyboard.press('ArrowDown')
    await page.locator(`[aria-rowindex="${n + 1}"][aria-selected=true]`).waitFor()
    assert.equal(await page.evaluate(() => document.activeElement.role), 'grid')
  }
  const name = await page.locator('[aria-selected=true] .mono').first().textContent()
  await page.locator('.details h2', { hasText: name }).waitFor()
  await page.getByRole('button', { name: 'Close' }).focus()
  await page.keyboard.press('Escape')
  await page.locator('.details').waitFor({ state: 'detached' })
  await focused('[role=grid]')
})

test('the keys order the table', async () => {
  await grid().focus()
  for (const [key, sort] of [['Enter', 'descending'], ['Space', 'ascending']]) {
    if (key === 'Enter') await page.keyboard.press('Tab')
    await page.keyboard.press(key)
    await page.locator(`[role=columnheader][aria-sort=${sort}]`, { hasText: 'Name' }).waitFor()
  }
  await page.locator('.details').waitFor({ state: 'detached' })
  await page.getByRole('button', { name: 'Pause', pressed: false }).waitFor()
  await sound()
})

test('the menu of a phone has the focus while it is open', async () => {
  await phone()
  const menu = page.getByRole('button', { name: 'Menu' })
  await menu.click()
  await focused('.side a')
  await sound()
  for (let i = 0; i < 15; i++) {
    await page.keyboard.press('Tab')
    assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest('.side')))
  }
  await page.locator('.side a').first().focus()
  await page.keyboard.press('Escape')
  await focused('.burger')
  await menu.click()
  await page.mouse.click(380, 700)
  await page.locator('.side:not(.open)').waitFor({ state: 'attached' })
  await menu.click()
  await page.locator('.side').getByRole('link', { name: 'Explain' }).click()
  await focused('main')
})

test('what orders the rows of a phone is shown, and turned around', async () => {
  await phone()
  await page.getByRole('button', { name: 'Pause' }).click()
  const last = () => page.locator('.table .rows [role=row]').first().locator('[role=gridcell]:visible').last().textContent()
  for (const [sort, unit] of [['Bytes', / [kM]B$/], ['RTT', / ms$/], ['Rate', / kB\/s$/], ['Uplink', /^wan/], ['Age', /^\d+[smh]$/]]) {
    await page.getByRole('combobox', { name: 'Sort by' }).selectOption(sort)
    await page.waitForFunction((s) => new RegExp(s).test([...document.querySelector('.table .rows [role=row]').children].findLast((e) => e.checkVisibility()).textContent), unit.source)
    assert.match(await last(), unit)
    assert.equal(await row().locator('[role=gridcell]:visible').count(), 3)
    await sound()
  }
  await page.getByRole('combobox', { name: 'Sort by' }).selectOption('RTT')
  await page.getByRole('button', { name: 'Reverse the order' }).click()
  await page.waitForFunction(() => /^–$|^\d(\.\d+)? ms/.test([...document.querySelector('.table .rows [role=row]').children].findLast((e) => e.checkVisibility()).textContent))
})

test('a filter finds nothing that came in a pause', async () => {
  await page.getByRole('button', { name: 'Pause' }).click()
  const had = served.newest()
  while (served.newest() < had + 10) await page.waitForTimeout(50)
  await page.locator('[data-filter]').fill(`host${served.newest()}.`)
  await page.getByText('No connections').waitFor()
  await page.locator('[data-filter]').fill(`host${served.newest()}.`)
  await page.getByRole('button', { name: 'Go on' }).click()
  await page.getByText('No connections').waitFor({ state: 'detached' })
})

test('Back finds the filter and the flow again', async () => {
  await page.locator('[data-filter]').fill('host30')
  await page.waitForURL(/match=host30/)
  await go(page, 'explain?flow=tcp+one', 'Explain')
  const flow = page.getByRole('textbox')
  await page.waitForFunction(() => document.querySelector('textarea').value === 'tcp one')
  const asked = page.waitForRequest((r) => r.url().endsWith('/explain') && r.postDataJSON().flow === 'tcp two')
  await page.evaluate(() => (location.hash = '#/explain?flow=tcp+two'))
  await asked
  await page.waitForFunction(() => document.querySelector('textarea').value === 'tcp two')
  await flow.fill('tcp three')
  await page.waitForURL(/three/)
  await go(page, 'settings', 'Settings')
  await page.goBack()
  await page.waitForFunction(() => document.querySelector('textarea')?.value === 'tcp three')
  await page.goBack()
  await page.waitForFunction(() => document.querySelector('textarea')?.value === 'tcp one')
  await page.goBack()
  await page.waitForFunction(() => document.querySelector('[data-filter]')?.value === 'host30')
})

test('lines of the log that come in a pause are shown after it', async () => {
  await go(page, 'logs', 'Logs')
  const line = page.locator('.log .line')
  await line.nth(9).waitFor()
  const first = () => line.first().textContent()
  await page.getByRole('button', { name: 'Pause' }).click()
  const held = await first()
  const had = served.newest()
  while (served.newest() < had + 10) await page.waitForTimeout(50)
  assert.equal(await first(), held)
  await page.getByRole('button', { name: 'Go on' }).click()
  await page.waitForFunction((held) => document.querySelector('.log .line').textContent !== held, held)
  const numbers = (await line.locator('.what').allTextContents()).map((s) => Number(/line (\d+)/.exec(s)[1]))
  assert.deepEqual(numbers, numbers.map((_, i) => numbers[0] - i))
  // A decision is one line, and the record is folded.
  await page.getByRole('button', { name: 'Pause' }).click()
  const decision = page.locator('.log summary').first()
  assert.match(await decision.textContent(), /^line \d+ (rule_\d+|default): route wan\d tcp .* > 203\.0\.113\.\d+:443 host\d+\.example\.com$/)
  await phone()
  await sound()
})

test('a page whose script does not come says so, and is shown when it comes', async () => {
  await page.route(/\/assets\/logs-/, (r) => r.abort())
  await page.evaluate(() => (location.hash = '#/logs'))
  await note('This page has failed').waitFor()
  assert.equal(await page.locator('h1').textContent(), 'Logs')
  assert.equal(await grid().count(), 0)
  await page.unrouteAll()
  await page.getByRole('button', { name: 'Show it again' }).click()
  await page.locator('.log .line').first().waitFor()
  await page.waitForFunction(() => getComputedStyle(document.querySelector('.log .line')).display === 'grid')
  // One that hangs has the new page's name, and nothing of the old one.
  let answer
  await page.route(/\/assets\/settings-/, (r) => (answer = () => r.continue()))
  await page.evaluate(() => (location.hash = '#/settings'))
  await page.locator('main[aria-busy=true] h1', { hasText: 'Settings' }).waitFor()
  assert.equal(await page.locator('.log').count(), 0)
  answer()
  await page.locator('main[aria-busy=false] h1', { hasText: 'Settings' }).waitFor()
})

test('what the daemon has not told is not shown as nothing', async () => {
  await page.route(/\/connections\?/, () => undefined)
  await page.reload()
  await page.locator('[data-test=count]', { hasText: '…' }).waitFor()
  assert.equal(await page.getByText('No connections').count(), 0)
  await page.unrouteAll()
})

test('a daemon that is not reached is told once, in words', async () => {
  served.silent = true
  await page.context().setOffline(true)
  await note('netpolicyd does not answer').waitFor()
  await page.locator('.strip .state', { hasText: 'No state' }).waitFor()
  assert.equal(await page.locator('.strip').getByText('ms').count(), 0)
  await row().click()
  await page.locator('.details').getByText('netpolicyd does not answer').waitFor()
  for (let i = 0; i < 3; i++) await page.getByRole('button', { name: 'Kill' }).click()
  await page.locator('.toasts .note').waitFor()
  assert.equal(await page.locator('.toasts .note').count(), 1)
  await page.context().setOffline(false)
  served.silent = false
  await page.locator('.strip .state', { hasText: 'Normal' }).waitFor()
})

test('a session that was ended says so', async () => {
  served.signedIn = false
  await page.getByText('The session has ended. Sign in again.').waitFor()
  served.signedIn = true
  await sound()
})

test('a return is taken note of, and pages that fill the window have room under it', async () => {
  served.more = { reverted: { n: 2, to: 1, hash: 'x', time: '2026-01-01T00:00:00Z', why: 'it was not confirmed', verified: true } }
  const taken = page.locator('.note', { hasText: 'Policy 2 was taken back' })
  await taken.waitFor()
  await page.waitForFunction(() => document.documentElement.scrollHeight <= innerHeight)
  await sound()
  await taken.getByRole('button', { name: 'Close' }).click()
  await taken.waitFor({ state: 'detached' })
  await page.waitForTimeout(1500) // for another status
  assert.equal(await taken.count(), 0)
  served.more = {}
})
