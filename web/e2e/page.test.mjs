// The generator as a page that needs no server: scripts/page.sh builds it first.
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { axeFindings, browser, open } from './browser.mjs'
import { files } from './crowd.mjs'
import { everyLink } from './generator.mjs'
import { catalogues, layoutFindings } from './layout.mjs'

let server, b, url
before(async () => {
  // Its policy is in the page itself; a plain file server sends none.
  server = createServer((req, res) => files(join(import.meta.dirname, '../dist-page'), req, res, "frame-ancestors 'none'"))
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  url = `http://127.0.0.1:${server.address().port}/`
  b = await browser()
})
after(async () => {
  await b?.close()
  server?.close()
})

test('sixty links go through WebAssembly and back, and nothing leaves the page', async () => {
  const page = await open(b, url)
  await page.goto(url)
  await everyLink(page)
  assert.deepEqual(await axeFindings(page), [])
  assert.deepEqual(await layoutFindings(page), [])
  assert.deepEqual(await page.wrong(), [])
})

test('a link behind # is there at once; a picture of its code is read; warnings have a fix', async () => {
  const page = await open(b, url)
  const link = 'vless://11111111-2222-4333-8444-555555555555@proxy.example:443?type=ws&security=tls&allowInsecure=1#Home'
  await page.goto(`${url}#${encodeURIComponent(link)}`)
  await page.getByRole('button', { name: 'Remove allowInsecure' }).click()
  await page.waitForFunction(() => !document.querySelector('.xray .text textarea').value.includes('allowInsecure'))
  // The code that the page draws is what it reads again, as a picture that was pasted.
  await page.getByRole('button', { name: 'Show secrets' }).click()
  const code = await page.locator('.code svg[role=img]').screenshot()
  const text = page.getByRole('textbox', { name: 'Text', exact: true })
  const now = (await text.inputValue()).trim()
  await text.fill('')
  await page.locator('input[type=file]').setInputFiles({ name: 'code.png', mimeType: 'image/png', buffer: code })
  await page.waitForFunction((want) => document.querySelector('.xray .text textarea').value.trim() === want, now)
  assert.deepEqual(await page.wrong(), [])
})

test('it is sound in every language, light, dark and on a phone', async () => {
  const wrong = []
  const links = `vless://11111111-2222-4333-8444-555555555555@proxy.example:443?type=ws&security=tls&allowInsecure=1&futurekey=1#${encodeURIComponent('A rather long name of a profile that does not fit')}\nnonsense://`
  for (const locale of Object.keys(catalogues)) {
    const page = await open(b, url, { locale })
    await page.goto(url)
    await page.locator(`html[lang=${locale}] h1`, { hasText: catalogues[locale]['page.title'] }).waitFor()
    await page.locator('.xray .text textarea').fill(links)
    await page.locator('[data-test=xray-findings] li').first().waitFor()
    await page.locator('[data-test=xray-form] summary').click()
    await page.locator('.xray .tools button[aria-pressed]').click()
    await page.locator('.xray .code svg[role=img]').waitFor()
    for (const [name, colorScheme, width] of [['light', 'light', 1280], ['dark', 'dark', 1280], ['phone', 'light', 390]]) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      await page.setViewportSize({ width, height: 800 })
      wrong.push(...[...(await layoutFindings(page)), ...(await axeFindings(page))].map((f) => `${locale}, ${name}: ${f}`))
    }
    wrong.push(...(await page.wrong()))
    await page.context().close()
  }
  assert.deepEqual(wrong, [])
})
