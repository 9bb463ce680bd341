// Every page with something on it, every dialog and menu, in every language, light and
// dark and on a phone: axe-core finds nothing, nothing is cut or lies over something
// else, and every text is translated. SHOTS_ALL=DIR writes a picture of each.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { axeFindings, browser, open } from './browser.mjs'
import { lab } from './lab.mjs'
import { catalogues, layoutFindings } from './layout.mjs'

const looks = [
  { name: 'light', colorScheme: 'light', size: { width: 1280, height: 800 } },
  { name: 'dark', colorScheme: 'dark', size: { width: 1280, height: 800 } },
  { name: 'phone', colorScheme: 'light', size: { width: 390, height: 780 } },
]
const links = [
  'vless://11111111-2222-4333-8444-555555555555@proxy.example:443?type=ws&security=tls&allowInsecure=1&sni=a.example&futurekey=1&path=%2Fa-long-path%2Fof%2Fa-web-socket#A%20rather%20long%20name%20of%20a%20profile%20that%20does%20not%20fit',
  'hysteria2://secret@proxy.example:443?obfs=salamander&obfs-password=other#hy2',
  'nonsense://',
  'ss://aes-256-gcm:example@127.0.0.1:9#closed',
].join('\n')

let l, b, page, provider
let combinations = 0
before(async () => {
  ;[l, b] = await Promise.all([lab(), browser()])
  page = await open(b, l.url)
  page.setDefaultTimeout(120_000)
})
after(async () => {
  provider?.kill()
  await b?.close()
  await l?.close()
})

const editor = () => page.locator('[data-test=editor] .cm-content')
// api asks the daemon as the page does, with its cookie.
const api = (method, path, body, headers = {}) =>
  page.evaluate(
    async ([method, path, body, headers]) => {
      const r = await fetch(`api/v1/${path}`, { method, headers: { 'Content-Type': 'application/json', ...headers }, body: body === undefined ? undefined : JSON.stringify(body) })
      if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${await r.text()}`)
      return { etag: r.headers.get('ETag'), body: await r.json() }
    },
    [method, path, body, headers],
  )
// stage puts a policy with one more rule beside the one in force.
async function stage(rule) {
  const config = await api('GET', 'config')
  const text = `${config.body.text}\nrule ${rule} priority 5 { match port 4711 and domain a-rather-long-name-of-a-host.example.com; do block reject, log "what is to be read in the log" }\n`
  return (await api('POST', 'config/stage', { text }, { 'If-Match': config.etag })).body.etag
}

test('there is something on every page', async () => {
  await page.goto(`${l.url}#/login?token=${l.token}`)
  await page.locator('.table .rows [role=row]').nth(5).waitFor()
  // A line that got slow, an override, a policy in the history, a subscription, an edit that is wrong.
  l.say('fault wan1 delay 300ms')
  await page.locator('.strip .state.bad').first().waitFor()
  await api('PUT', 'state', { state: 'DEGRADED', uplink: 'wan2', for: '8h', reason: 'what somebody writes about it, at some length' })
  await api('POST', 'config/commit', {}, { 'If-Match': await stage('first') })
  const serve = `require('http').createServer((_, r) => r.end(${JSON.stringify(links)})).listen(8099, '127.0.0.1', () => console.log('listens'))`
  provider = l.inGateway(process.execPath, '-e', serve)
  await once(provider.stdout, 'data')
  await api('POST', 'subscriptions', { do: 'add', name: 'home', url: 'http://127.0.0.1:8099/token' })
  await page.evaluate(() => (location.hash = '#/policy'))
  await editor().click()
  await page.keyboard.press('Control+End')
  await page.keyboard.type('\nrule broken { match prot tcp; do route nowhere }\n')
  await page.locator('[data-test=findings] li').first().waitFor()
})

for (const language of Object.keys(catalogues)) {
  test(`everything in ${language}`, async (t) => {
    const words = catalogues[language]
    const wrong = []
    // look holds what stands against axe-core and the measures, in every look.
    const look = async (what, { of = page, only } = {}) => {
      for (const { name, colorScheme, size } of looks) {
        if (only && only !== name) continue
        await of.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
        await of.setViewportSize(size)
        await of.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))))
        const found = await layoutFindings(of)
        if (process.env.SHOTS_ALL) await of.screenshot({ path: join(process.env.SHOTS_ALL, `${language}-${what.replaceAll(' ', '-')}-${name}.png`) })
        found.push(...(await axeFindings(of)))
        wrong.push(...found.map((f) => `${what}, ${name}: ${f}`))
        combinations++
      }
      await of.setViewportSize(looks[0].size)
    }
    const visit = async (id) => {
      await page.evaluate((id) => (location.hash = `#/${id}`), id)
      await page.locator('h1#page', { hasText: words[`nav.${id}`] }).waitFor()
    }
    await page.evaluate(() => (location.hash = '#/settings'))
    await page.locator('main select').first().selectOption(language)
    await page.locator(`html[lang=${language}] h1#page`, { hasText: words['nav.settings'] }).waitFor()
    await look('settings')

    await page.locator('body').press('?')
    await page.locator('dialog[open]').waitFor()
    await look('keys')
    await page.keyboard.press('Escape')
    await page.locator('dialog').waitFor({ state: 'detached' })
    await page.setViewportSize(looks[2].size)
    await page.locator('.burger').click()
    await look('menu', { only: 'phone' })
    await page.keyboard.press('Escape')

    await visit('connections')
    await page.locator('.table .rows [role=row]').nth(5).waitFor()
    await look('connections')
    await page.locator('[data-filter]').fill('bulk.example')
    await page.locator('.table .rows [role=row]').first().click()
    await page.locator('.details [data-test=near]').waitFor()
    await look('why')
    await page.locator('.details button.primary').click()
    await page.locator('dialog[open] button.primary:enabled').waitFor()
    await look('rule')
    await page.keyboard.press('Escape')
    await page.locator('dialog').waitFor({ state: 'detached' })
    await page.locator('.details button.danger').click()
    await page.locator('.toasts .note').first().waitFor()
    await look('kill')

    await visit('explain')
    await page.locator('main textarea').fill('tcp 10.77.0.2:5000 > 203.0.113.10:443 sni=us01.zoom.us')
    await page.locator('main button[type=submit]').click()
    await page.locator('.verdict').waitFor()
    await look('explain')
    await page.locator('main textarea').fill('tcp 10.77.0.2:5000 > nowhere')
    await page.locator('main button[type=submit]').click()
    await page.locator('main .note.error').waitFor()
    await look('explain error')

    await visit('state')
    await page.locator('[data-test=transitions] li').nth(1).waitFor()
    await page.locator('.note.warning', { hasText: 'what somebody writes' }).waitFor()
    await look('state')
    await visit('uplinks')
    await page.locator('[data-test=uplink-wan2] .limit.bad').first().waitFor({ state: 'attached' })
    await page.locator('[data-test=uplink-wan1] path.line-1[d*=L]').first().waitFor({ state: 'attached' })
    await look('uplinks')

    await visit('policy')
    await page.locator('[data-test=findings] li').first().waitFor()
    await look('problems')
    await page.locator('[role=tab]').nth(1).click()
    await page.locator('[data-test=rules] li').nth(3).waitFor()
    await look('rules')
    await page.locator('[role=tab]').nth(2).click()
    await look('no tests')
    await page.locator('main > .bar button').nth(2).click()
    await page.locator('.summary').waitFor()
    await look('tests')

    // One policy waits for its confirmation, and another is staged.
    const { body: { n } } = await api('POST', 'config/commit?confirm=1h', {}, { 'If-Match': await stage(`of_${language.replace('-', '_')}`) })
    await page.locator('.waiting').waitFor()
    await stage('another')
    await visit('change')
    const staged = page.locator('[data-test=staged]')
    await staged.locator('.diff .add').first().waitFor()
    await page.locator('[data-test=history] li').nth(2).waitFor()
    await look('change')
    await staged.locator('[role=tab]').nth(1).click()
    await staged.locator('.diff').first().waitFor()
    await look('kernel')
    await staged.locator('[role=tab]').nth(2).click()
    await staged.locator('[data-test=replay]').waitFor()
    await look('replay')
    await page.locator('[data-test=history] button.plain').nth(0).click()
    await page.locator('dialog[open] .diff').waitFor()
    await look('version')
    await page.keyboard.press('Escape')
    await api('POST', 'config/confirm', { n })
    await api('DELETE', 'config/stage').catch(() => undefined)

    await visit('xray')
    await page.locator('[data-test=subscriptions] summary').first().click()
    await page.locator('[data-test=subscriptions] .profiles li').first().waitFor()
    await look('no link')
    const text = page.locator('.xray .text textarea')
    await text.fill(links)
    await page.locator('[data-test=xray-findings] li').first().waitFor()
    await page.locator('[data-test=xray-form] summary').click()
    await look('link')
    await page.locator('.xray .tools button[aria-pressed]').click()
    await page.locator('.xray .code svg[role=img]').waitFor()
    await page.locator('.profiles button[aria-current]').nth(3).click()
    await page.locator('[data-test=trial] button').click()
    await page.locator('[data-test=trial] .note').waitFor()
    await look('trial')
    await page.locator('.xray [role=tab]').nth(3).click()
    await page.locator('.xray .text textarea:not(:placeholder-shown)').waitFor()
    await look('clash')
    // The profiles are there for the next language unless they go.
    await text.fill('')
    await page.locator('.xray .note.info button').waitFor()
    await look('gone')

    await visit('logs')
    await page.locator('[role=log] .line').first().waitFor()
    await look('logs')

    // Somebody who is not signed in yet, and a daemon that does not answer.
    const other = await open(b, l.url)
    await other.addInitScript((l) => localStorage.setItem('netpolicy.language', l), language)
    await other.goto(l.url)
    await other.locator('input[type=password]').fill('wrong')
    await other.locator('button[type=submit]').click()
    await other.locator('.note.error').waitFor()
    await look('signing in', { of: other })
    await other.route('**/api/**', (r) => r.abort())
    await other.reload()
    await other.locator('.note.error', { hasText: words.unreachable }).waitFor()
    await look('unreachable', { of: other })
    wrong.push(...(await other.wrong()).filter((w) => !/ERR_FAILED/.test(w)))
    await other.context().close()
    wrong.push(...(await page.wrong()))
    t.diagnostic(`${combinations} combinations so far`)
    assert.deepEqual(wrong, [])
  })
}
