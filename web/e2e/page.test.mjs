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

// What comes in besides is appended, and what can't be read is told in our words.
test('a code is read light on dark; files are appended; an archive is refused', async () => {
  const page = await open(b, url)
  await page.goto(url)
  const text = page.getByRole('textbox', { name: 'Text', exact: true })
  const files = page.locator('input[type=file]')
  const names = () => page.locator('.profiles bdi').allTextContents()
  const become = (want) => page.waitForFunction((want) => JSON.stringify([...document.querySelectorAll('.profiles bdi')].map((e) => e.textContent)) === want, JSON.stringify(want))
  const file = (name, text, mimeType = 'text/plain') => ({ name, mimeType, buffer: Buffer.from(text) })
  await files.setInputFiles([file('a.txt', 'trojan://pw@a.example:443?security=tls#a\n'), file('b.txt', '# more\ntrojan://pw@b.example:443?security=tls#b\n')])
  await become(['a', 'b'])
  assert.equal(await text.inputValue(), 'trojan://pw@a.example:443?security=tls#a\n# more\ntrojan://pw@b.example:443?security=tls#b\n')
  await page.getByRole('tab', { name: 'Xray', exact: true }).click()
  await page.getByRole('combobox', { name: 'New' }).selectOption('ss')
  await become(['a', 'b', 'ss'])
  // A code of the page's own, in a picture that is light on dark.
  await page.getByRole('button', { name: 'Show secrets' }).click()
  await page.locator('.profiles button').first().click()
  const code = page.locator('.code svg[role=img]')
  await code.waitFor()
  await code.evaluate((svg) => (svg.style.filter = 'invert(1)'))
  const picture = await code.screenshot()
  await code.evaluate((svg) => svg.style.removeProperty('filter'))
  await files.setInputFiles({ name: 'code.png', mimeType: 'image/png', buffer: picture })
  await become(['a', 'b', 'ss', 'a'])
  for (const bad of [file('a.zip', 'PK\x03\x04\0\0', 'application/zip'), file('a.png', 'PNG', 'image/png')]) {
    await files.setInputFiles(bad)
    await page.locator('.toasts', { hasText: `${bad.name}: can't be read` }).waitFor()
  }
  assert.deepEqual(await names(), ['a', 'b', 'ss', 'a'])
  // All of it is emptied, and comes back.
  await text.fill('')
  await page.getByRole('button', { name: 'Take the edits back: 4 profiles' }).click()
  await become(['a', 'b', 'ss', 'a'])
  assert.deepEqual(await page.wrong(), [])
})

test('a key in a text that can not say a profile changes nothing of it', async () => {
  const page = await open(b, url)
  const link = 'vless://11111111-2222-4333-8444-555555555555@proxy.example:443?type=xhttp&path=%2Fx&extra=%7B%22xPaddingBytes%22%3A%22100-1000%22%7D&security=reality&sni=s.example&pbk=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8&foo=bar#My%20%F0%9F%87%A9%F0%9F%87%AA'
  await page.goto(`${url}#${link}`)
  const text = page.getByRole('textbox', { name: 'Text', exact: true })
  for (const [tab, begins] of [['Clash', 'proxies'], ['sing-box', '{'], ['SIP008', '{'], ['Xray', '{']]) {
    await page.getByRole('tab', { name: tab, exact: true }).click()
    await page.waitForFunction((begins) => document.querySelector('.xray .text textarea').value.startsWith(begins), begins)
    const written = await text.inputValue()
    await text.focus()
    await page.keyboard.press('Control+End')
    await page.keyboard.type(' ')
    await page.locator('.xray .note.warning', { hasText: 'foo' }).waitFor()
    assert.equal(await text.inputValue(), `${written} `)
    await page.getByRole('tab', { name: 'Links' }).click()
    await page.waitForFunction((link) => document.querySelector('.xray .text textarea').value.trim() === link, link)
    assert.equal(await page.locator('[data-test=xray-form]').count(), 1)
  }
  await page.getByRole('tab', { name: 'Xray', exact: true }).click()
  await page.waitForFunction(() => document.querySelector('.xray .text textarea').value.startsWith('{'))
  await text.fill((await text.inputValue()).replace('443', '8443'))
  await page.waitForFunction(() => document.getElementById('x-#port').value === '8443')
  await page.getByRole('tab', { name: 'Links' }).click()
  await page.waitForFunction((link) => document.querySelector('.xray .text textarea').value.trim() === link, link.replace('443', '8443'))
  assert.equal(await page.locator('.xray .note').count(), 0)
  assert.deepEqual(await page.wrong(), [])
})

// A line that a browser would draw as dots, and never be done.
test('two thousand profiles in one line are read, and few of them drawn', async () => {
  const page = await open(b, url)
  await page.goto(url)
  const line = Buffer.from(Array.from({ length: 2000 }, (_, i) => `trojan://pw@${i}.example:443?security=tls&sni=a.rather.long.name.example#${i}`).join('\n')).toString('base64')
  await page.locator('input[type=file]').setInputFiles({ name: 'a.txt', mimeType: 'text/plain', buffer: Buffer.from(line) })
  await page.getByRole('heading', { name: '2,000 profiles' }).waitFor()
  const { secret, drawn } = await page.evaluate(() => {
    const area = document.querySelector('.xray .text textarea')
    const style = getComputedStyle(area)
    return { secret: [area === document.activeElement, style.filter, style.webkitTextSecurity], drawn: document.querySelectorAll('.profiles li').length }
  })
  assert.deepEqual(secret, [false, 'blur(6px)', 'none'])
  assert.ok(drawn < 300, `${drawn} rows`)
  // The last one is where it would be if all were drawn.
  await page.locator('.profiles').evaluate((e) => (e.scrollTop = e.scrollHeight))
  await page.locator('.profiles button', { hasText: '1999' }).click()
  await page.waitForFunction(() => document.getElementById('x-#host').value === '1999.example')
  assert.equal(await page.locator('.profiles').evaluate((e) => e.scrollHeight), 2000 * 39)
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
