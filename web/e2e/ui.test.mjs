// Every page against a real netpolicyd in the lab, in one story: a line gets slow, a
// connection is asked why, a rule is made from it, and the change comes and goes.
// SHOTS=DIR writes the screenshots of docs/ui.md.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { axeFindings, browser, go, open } from './browser.mjs'
import { everyLink } from './generator.mjs'
import { lab } from './lab.mjs'
import { layoutFindings } from './layout.mjs'

const shots = process.env.SHOTS
let l, b, page

before(async () => {
  ;[l, b] = await Promise.all([lab(), browser()])
  page = await open(b, l.url)
  page.setDefaultTimeout(60_000)
})
after(async () => {
  await b?.close()
  await l?.close()
})

const shot = async (name, p = page) => {
  if (!shots) return
  const messages = (display) => p.evaluate((is) => document.querySelector('.toasts')?.style.setProperty('display', is), display)
  await messages('none')
  await p.screenshot({ path: join(shots, `${name}.png`) })
  await messages('')
}
// sound holds a page against what every page has to be.
const sound = async (what, p = page) => {
  assert.deepEqual(await axeFindings(p), [], what)
  assert.deepEqual(await layoutFindings(p), [], what)
  assert.deepEqual(await p.wrong(), [], what)
}
// shown waits until the page of that name stands, whose script may have to be fetched
// first, and until its list has something in it.
const shown = async (id, p = page) => {
  await p.waitForFunction((id) => {
    const link = document.querySelector(`nav a[href="#/${id}"][aria-current=page]`)
    const title = document.querySelector('main[aria-busy=false] h1#page')?.textContent
    return link && title && link.textContent.includes(title)
  }, id)
  if (id === 'connections') await p.locator('.table .rows [role=row]').first().waitFor()
}
const row = (text) => page.locator('.table .rows [role=row]', { hasText: text }).first()

test('signing in takes the token', async () => {
  await page.goto(l.url)
  await page.getByLabel('Token').fill('wrong')
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('alert').waitFor()
  await sound('login')
  await page.getByLabel('Token').fill(l.token)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.locator('h1#page', { hasText: 'Connections' }).waitFor()
})

test('connections are live, are filtered, and say why', async () => {
  await row('zoom.us').waitFor()
  await sound('connections')
  await shot('connections')
  // The keys: / to the filter, arrows in the table, Enter opens.
  await page.keyboard.press('/')
  await page.keyboard.type('bulk.example')
  await row('bulk.example.net').waitFor()
  assert.equal(await row('zoom.us').count(), 0)
  await page.locator('[role=grid]').focus()
  await page.keyboard.press('ArrowDown')
  await page.keyboard.press('Enter')
  const details = page.getByRole('region', { name: 'Details of the connection' })
  await details.locator('[data-test=why]').waitFor()
  await details.locator('[data-test=near]').getByText('no_telnet').waitFor()
  await details.getByText('downloads').first().waitFor()
  await sound('details')
  // Bytes are counted, and shown as they grow.
  await page.waitForFunction(() => [...document.querySelectorAll('.details dd')].some((e) => /[1-9].*[kM]B/.test(e.textContent)))
  await shot('why')
  await page.keyboard.press('Escape')
  await page.locator('[data-filter]').fill('')
})

test('a connection can be ended', async () => {
  l.say('transfer start victim echo.example.net:8080')
  await page.locator('[data-filter]').fill(':8080')
  await row('echo.example.net').click()
  await page.getByRole('button', { name: 'Kill' }).click()
  await page.locator('.details').getByText('Ended by hand').waitFor()
  // Its next packet ends it, some time later: the lab is asked until it notices.
  const asking = setInterval(() => l.say('transfer check victim alive'), 1000)
  await l.heard(/error +\S.*(reset|broken|refused|unreachable|timed out)/).finally(() => clearInterval(asking))
  l.say('transfer stop victim')
  await page.locator('[data-filter]').fill('')
  await page.keyboard.press('Escape')
})

test('a slow line shows: state, time line, charts', async () => {
  l.say('fault wan1 delay 300ms')
  await page.locator('.strip .state', { hasText: /Degraded|Failover/ }).waitFor()
  await go(page, 'state', 'State')
  const changes = page.locator('[data-test=transitions] li', { hasText: 'wan1' })
  await changes.filter({ hasText: /rtt .* enter 120 ms/ }).first().waitFor()
  await page.locator('.lane svg .band.FAILOVER').first().waitFor({ state: 'attached' })
  await sound('state')
  await shot('state')
  await go(page, 'uplinks', 'Uplinks')
  // The chart has moved over its threshold, and its name says the same, sooner or later.
  await page.waitForFunction(() => {
    const svg = document.querySelector('[data-test=uplink-wan1] svg[aria-label^=RTT]')
    const limit = svg?.querySelector('.limit.bad path')?.getBBox().y
    const line = svg?.querySelector('path.line-1')?.getBBox().y
    const said = Number(/RTT (\d+) ms, bad from here 120 ms/.exec(svg?.getAttribute('aria-label'))?.[1])
    return limit !== undefined && line !== undefined && line < limit && said > 200
  })
  await sound('uplinks')
  await shot('uplinks')
})

test('an override is set, shown and ended', async () => {
  await go(page, 'state', 'State')
  await page.getByRole('combobox', { name: 'State' }).selectOption('DEGRADED')
  await page.getByRole('combobox', { name: 'Uplink' }).selectOption('wan2')
  await page.getByLabel('Reason').fill('a <b>test</b>')
  await page.getByRole('button', { name: 'Force' }).click()
  await page.locator('.note', { hasText: 'a <b>test</b>' }).waitFor()
  await page.getByRole('button', { name: 'End it' }).click()
  await page.getByRole('button', { name: 'End it' }).waitFor({ state: 'detached' })
  l.say('heal wan1')
})

test('any flow is explained, in any state', async () => {
  await go(page, 'explain', 'Explain')
  await page.getByRole('textbox').fill('tcp 10.77.0.2:5000 > 203.0.113.10:443 sni=us01.zoom.us')
  await page.getByRole('button', { name: 'Explain', exact: true }).click()
  await page.getByRole('combobox', { name: 'State' }).selectOption('FAILOVER')
  await page.locator('.verdict', { hasText: 'calls_when_bad' }).waitFor()
  await page.locator('[data-test=near]', { hasText: 'state NORMAL (now: FAILOVER)' }).waitFor()
  await sound('explain')
  await shot('explain')
})

// The editor is in a shadow root, which Playwright looks into by itself.
const code = () => page.locator('[data-test=editor] .cm-content')

test('a rule is made from a connection, and a bad edit shows at its place', async () => {
  await go(page, 'connections', 'Connections')
  await page.locator('[data-filter]').fill('www.example.com')
  await page.locator('.table .rows [role=row]', { hasText: 'tcp/443' }).first().click()
  await page.getByRole('button', { name: 'Make a rule from this' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByText('www.example.com').waitFor()
  await sound('dialog')
  await dialog.getByLabel('What becomes of it').selectOption('route wan2')
  await dialog.getByRole('button', { name: 'Open in the editor' }).click()
  await page.locator('h1#page', { hasText: 'Policy' }).waitFor()
  await code().getByText('rule for_www_example_com priority 1 {').waitFor()
  await page.getByText('No problems found').or(page.locator('[data-test=findings]')).first().waitFor()
  // The rule is selected: typing over its end breaks it, and the finding says where.
  await page.keyboard.press('ArrowRight')
  await page.keyboard.type('rule broken { match prot tcp; do route nowhere }\n')
  const finding = page.locator('[data-test=findings] li', { hasText: 'Error' }).first()
  await finding.waitFor()
  await page.waitForFunction(() => document.querySelector('[data-test=editor]').shadowRoot.querySelector('.cm-lintRange-error')?.textContent === 'prot')
  const lines = await code().evaluate((e) => e.innerText.split('\n'))
  const at = /line (\d+), column (\d+)/.exec(await finding.textContent())
  assert.ok(at, 'the finding has a place')
  // Lines out of view are not drawn: the place is compared with the numbers beside the lines.
  const number = await page.evaluate(() => {
    const root = document.querySelector('[data-test=editor]').shadowRoot
    const mark = root.querySelector('.cm-lintRange-error').getBoundingClientRect()
    return [...root.querySelectorAll('.cm-lineNumbers .cm-gutterElement')].find((g) => {
      const r = g.getBoundingClientRect()
      return r.height > 0 && r.top <= mark.top + 4 && r.bottom > mark.top + 4
    })?.textContent
  })
  assert.equal(at[1], number)
  assert.equal(Number(at[2]), 'rule broken { match '.length + 1)
  assert.ok(lines.length > 5)
  assert.equal(await page.getByRole('button', { name: 'Stage' }).isEnabled(), true)
  await sound('policy')
  await shot('policy')
  // Completion comes from the daemon.
  await page.keyboard.press('Shift+ArrowUp')
  await page.keyboard.press('Backspace')
  await page.locator('[data-test=findings] li', { hasText: 'Error' }).first().waitFor({ state: 'detached' })
  await page.keyboard.type('rule other { match pro')
  await page.keyboard.press('Control+Space')
  await page.locator('[data-test=editor] .cm-tooltip-autocomplete li', { hasText: 'proto' }).first().waitFor()
  await page.keyboard.press('Escape')
  await page.keyboard.press('Shift+Home')
  await page.keyboard.press('Backspace')
  // Tests, formatting, the other syntax and back, hit counts.
  await page.getByRole('button', { name: 'Run tests' }).click()
  await page.getByText('4 tried, 0 failed').waitFor()
  await page.getByRole('button', { name: 'To YAML' }).click()
  await code().getByText('version: 1').waitFor()
  await page.getByRole('button', { name: 'Format' }).click()
  await page.getByRole('tab', { name: /^Rules/ }).click()
  await page.locator('[data-test=rules] li', { hasText: 'calls' }).first().locator('text=/[1-9][0-9,]* decision/').waitFor()
})

test('a change is staged, committed, not confirmed, and returns; sixty links meanwhile', async () => {
  // It is shown as YAML, and staged as NPL, as its file is.
  await page.getByRole('button', { name: 'Stage' }).click()
  await page.getByText('The text is in NPL now').waitFor()
  await page.locator('h1#page', { hasText: 'Change' }).waitFor()
  const staged = page.locator('[data-test=staged]')
  await staged.locator('.diff .add', { hasText: 'rule for_www_example_com' }).waitFor()
  await sound('change')
  await shot('change')
  await staged.getByRole('tab', { name: 'Kernel' }).click()
  // What the rule brings to the kernel, and neither what stays nor any connection.
  await staged.locator('.diff .add', { hasText: 'meta priority set' }).first().waitFor()
  assert.doesNotMatch(await staged.locator('.diff').textContent(), /table inet|alive|us01\.zoom\.us/)
  await staged.getByRole('tab', { name: 'Replay' }).click()
  await staged.locator('[data-test=replay]', { hasText: /[0-9]+ of the last [1-9][0-9,]* connections would change/ }).waitFor()
  await staged.getByRole('tab', { name: 'Text' }).click()
  await staged.getByLabel('Confirmation').selectOption('90s')
  await staged.getByRole('button', { name: 'Commit' }).click()
  const banner = page.getByRole('region', { name: 'A change waits for its confirmation' })
  await banner.locator('[data-test=countdown]', { hasText: /returns in (1:[0-9]{2}|0:[0-9]{2})/ }).waitFor()
  assert.match(l.run('status'), /for_www_example_com|waits|confirm/i)
  await sound('waiting')
  // It waits on every page.
  await go(page, 'explain', 'Explain')
  await page.getByRole('textbox').fill('tcp 10.77.0.2:5000 > 198.51.100.30:443 sni=www.example.com')
  await page.getByRole('button', { name: 'Explain', exact: true }).click()
  await page.locator('.verdict', { hasText: 'for_www_example_com' }).waitFor()
  await banner.waitFor()
  // Meanwhile there is time for sixty links through the generator and back.
  await go(page, 'xray', 'Xray')
  await everyLink(page)
  // A remark that is markup stays a text.
  assert.equal(await page.locator('img').count(), 0)
  await page.locator('.profiles button').first().click()
  await sound('xray')
  await shot('xray')
  await page.getByText(/Policy 2 was taken back/).waitFor({ timeout: 300_000 })
  await go(page, 'explain', 'Explain')
  await page.getByRole('textbox').fill('tcp 10.77.0.2:5000 > 198.51.100.30:443 sni=www.example.com')
  await page.getByRole('button', { name: 'Explain', exact: true }).click()
  await page.locator('.verdict', { hasText: 'default' }).waitFor()
  await go(page, 'change', 'Change')
  await page.locator('[data-test=history] li', { hasText: 'taken back' }).waitFor()
})

test('a change is kept, and a policy of the history comes back', async () => {
  await go(page, 'policy', 'Policy')
  await code().click()
  await page.keyboard.press('Control+End')
  await page.keyboard.type('\nrule kept priority 7 { match port 9999; do block }\n')
  await page.getByRole('button', { name: 'Stage' }).click()
  await page.locator('[data-test=staged]').getByRole('button', { name: 'Commit' }).click()
  await page.getByRole('button', { name: 'Keep it' }).click()
  await page.locator('[data-test=history] li', { hasText: 'confirmed' }).first().waitFor()
  await page.locator('[data-test=history] li').last().getByRole('button', { name: 'Go back to it' }).click()
  await page.getByRole('button', { name: 'Keep it' }).click()
  await page.getByRole('region', { name: 'A change waits' }).waitFor({ state: 'detached' })
  await page.locator('[data-test=history] li').first().getByText('in force').waitFor()
  await sound('history')
})

test('of two who change the policy each is told what the other does', async () => {
  const q = await open(b, l.url)
  q.setDefaultTimeout(60_000)
  await q.goto(`${l.url}#/login?token=${l.token}`)
  await q.locator('h1#page', { hasText: 'Connections' }).waitFor()
  const text = (p) => p.locator('[data-test=editor] .cm-content')
  const type = async (p, name, port) => {
    await go(p, 'policy', 'Policy')
    await text(p).click()
    await p.keyboard.press('Control+End')
    await p.keyboard.type(`\nrule ${name} priority 7 { match port ${port}; do block }\n`)
    await p.getByText('edited').waitFor()
  }
  const stage = (p) => p.getByRole('button', { name: 'Stage', exact: true }).click()
  const staged = (p) => p.locator('[data-test=staged]')
  await type(page, 'first', 8001)
  await type(q, 'second', 8002)
  await stage(page)
  await staged(page).locator('.diff .add', { hasText: 'rule first' }).waitFor()
  await staged(page).getByText(/ from 127\.0\.0\.1/).waitFor()
  // The second is asked before it takes the first one's place, which is told then.
  let asked = ''
  q.once('dialog', (d) => {
    asked = d.message()
    void d.accept()
  })
  await stage(q)
  await staged(q).locator('.diff .add', { hasText: 'rule second' }).waitFor()
  assert.match(asked, /staged already: .* from 127\.0\.0\.1:\d+, .*Replace it\?/)
  await staged(page).locator('.diff .add', { hasText: 'rule second' }).waitFor()
  await page.getByText('What you have edited is not staged yet.').waitFor()
  // The one who has edited hears of the policy that comes into force, sees what it
  // changed, and stages against it at once.
  await go(page, 'policy', 'Policy')
  await staged(q).getByRole('button', { name: 'Commit' }).click()
  const told = page.locator('main .note', { hasText: 'Another policy came into force meanwhile' })
  await told.getByRole('button', { name: 'Show' }).click()
  await page.getByRole('dialog').locator('.diff .add', { hasText: 'rule second' }).waitFor()
  await sound('what came meanwhile')
  await page.keyboard.press('Escape')
  // What is taken back is edited again by who made it; the result that waited is gone.
  await q.getByText('waits for its confirmation').first().waitFor()
  await q.locator('main .note', { hasText: 'waits for its confirmation' }).waitFor()
  assert.equal(await q.locator('[data-test=history] button:enabled', { hasText: 'Go back to it' }).count(), 0)
  await q.getByRole('button', { name: 'Take back' }).click()
  await q.locator('main .note', { hasText: 'waits for its confirmation' }).waitFor({ state: 'detached' })
  await q.getByText('What you have edited is not staged yet.').waitFor()
  await go(q, 'policy', 'Policy')
  await text(q).click()
  await q.keyboard.press('Control+End')
  await text(q).getByText('rule second').waitFor()
  // A stage whose policy is gone is compared anew with the one in force, and then only committed.
  await stage(page)
  await staged(page).locator('.diff .add', { hasText: 'rule first' }).waitFor()
  const file = join(mkdtempSync(join(tmpdir(), 'np-ui-')), 'policy.npl')
  writeFileSync(file, `${JSON.parse(await page.evaluate(async () => (await fetch('api/v1/config')).text())).text}\nrule third priority 7 { match port 8003; do block }\n`)
  l.run('apply', file)
  rmSync(dirname(file), { recursive: true })
  const gone = staged(page).locator('.note', { hasText: 'Another policy is in force by now' })
  await gone.waitFor()
  assert.equal(await staged(page).getByRole('button', { name: 'Commit' }).isDisabled(), true)
  await sound('a stage of another policy')
  await gone.getByRole('button', { name: 'Stage' }).click()
  await gone.waitFor({ state: 'detached' })
  await staged(page).locator('.diff .remove', { hasText: 'rule third' }).waitFor()
  await staged(page).getByRole('button', { name: 'Drop' }).click()
  await staged(page).waitFor({ state: 'detached' })
  // A text of the history is edited, and to undo that gives back what was typed.
  await page.locator('[data-test=history] li', { hasText: 'taken back' }).first().getByRole('button', { name: 'Show' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Open in the editor' }).click()
  await text(page).click()
  await page.keyboard.press('Control+End')
  await text(page).getByText('rule second').waitFor()
  await page.keyboard.press('Control+z')
  await page.keyboard.press('Control+End')
  await text(page).getByText('rule first').waitFor()
  // Searching takes the place of the browser's, which sees only the lines that are drawn.
  await page.keyboard.press('Control+f')
  await page.keyboard.type('RULE CALLS')
  await page.getByText('1 of 2').waitFor()
  await page.keyboard.press('Enter')
  await page.getByText('2 of 2').waitFor()
  await page.getByRole('button', { name: 'Find ↑' }).click()
  await page.getByText('1 of 2').waitFor()
  await sound('searching')
  await page.getByRole('button', { name: 'Discard' }).click()
  // How often each rule decides stands beside it. A rule of the list is shown where it stands.
  await page.locator('[data-test=editor] .np-count', { hasText: /[1-9][0-9,]* decision/ }).first().waitFor()
  await page.getByRole('tab', { name: /^Rules/ }).click()
  await page.locator('[data-test=rules]').getByRole('button', { name: 'third' }).click()
  await page.waitForFunction(() => document.querySelector('[data-test=editor]').shadowRoot.querySelector('.cm-activeLine')?.textContent.startsWith('rule third'))
  await q.getByRole('button', { name: 'Discard' }).click()
  await q.context().close()
})

test('a subscription is added, chosen from and removed', async () => {
  await go(page, 'xray', 'Xray')
  const one = `vless://11111111-2222-4333-8444-555555555555@one.example:443?security=tls#one`
  const serve = `require('http').createServer((_, r) => r.end('${one}\\n${one.replaceAll('one', 'two')}')).listen(8099, '127.0.0.1', () => console.log('listens'))`
  const provider = l.inGateway(process.execPath, '-e', serve)
  await once(provider.stdout, 'data')
  const card = page.locator('[data-test=subscriptions]')
  await card.getByText('No subscriptions are kept.').waitFor()
  await card.getByLabel('Name').fill('home')
  await card.getByLabel('URL').fill('http://127.0.0.1:8099/token')
  await card.getByRole('button', { name: 'Add' }).click()
  await card.getByText('2 profiles').waitFor()
  assert.equal(await card.getByText('token').count(), 0)
  await card.getByText('2 profiles').click()
  await card.getByRole('button', { name: 'two.example' }).click()
  await card.locator('summary', { hasText: 'chosen: two' }).waitFor()
  await card.locator('button[aria-pressed=true]', { hasText: 'two.example' }).waitFor()
  await sound('subscriptions')
  await card.getByRole('button', { name: 'Fetch now' }).click()
  await card.getByRole('button', { name: 'Fetch now', disabled: false }).waitFor()
  assert.equal(await card.locator('.note').count(), 0)
  provider.kill()
  page.once('dialog', (d) => d.accept())
  await card.getByRole('button', { name: 'Remove' }).click()
  await card.getByText('No subscriptions are kept.').waitFor()
})

// That a real Xray tries links is for xray.test.mjs. Here what it needs is told, or, on a
// machine that has one, why there is no answer.
test('a link that can not be tried says why', async () => {
  await go(page, 'xray', 'Xray')
  const text = page.getByRole('textbox', { name: 'Text', exact: true })
  await text.fill('ss://aes-256-gcm:example@127.0.0.1:9#closed')
  const trial = page.locator('[data-test=trial]')
  await trial.getByRole('button', { name: 'Try it with Xray' }).click()
  const there = process.env.PATH.split(':').some((dir) => existsSync(join(dir, 'xray')))
  await trial.getByText(there ? "nobody listens on the server's port" : 'there is no xray in PATH').waitFor()
  await sound('trial')
})

test('a configuration is kept as it came until its losses are accepted', async () => {
  const text = page.getByRole('textbox', { name: 'Text', exact: true })
  const config = JSON.stringify({
    inbounds: [],
    outbounds: [
      { protocol: 'trojan', tag: 'one', settings: { address: 'one.example', port: 443, password: 'example' }, streamSettings: { security: 'tls', sockopt: { mark: 255 } } },
      { protocol: 'freedom' },
    ],
  })
  await text.fill(config)
  await page.locator('#x-\\#host').waitFor()
  await page.locator('#x-\\#name').fill('two')
  const note = page.locator('.note.warning', { hasText: 'The text is still as it came' })
  await note.getByText('inbounds, outbound freedom').waitFor()
  await note.getByText('streamSettings.sockopt.mark').waitFor()
  assert.equal(await text.inputValue(), config)
  await sound('held')
  await note.getByRole('button', { name: 'Take the edits back' }).click()
  await note.waitFor({ state: 'detached' })
  await page.waitForFunction(() => document.getElementById('x-#name').value === 'one')
  await page.locator('#x-\\#name').fill('three')
  await note.getByRole('button', { name: 'Write it anew' }).click()
  await page.waitForFunction(() => document.querySelector('.xray .text textarea').value.includes('three'))
  assert.doesNotMatch(await text.inputValue(), /sockopt|freedom/)
})

test('names and programs that are markup stay texts', async () => {
  await go(page, 'connections', 'Connections')
  // A program of the gateway whose name is markup behind a direction override, and a connection to a name that is.
  const dir = mkdtempSync(join(tmpdir(), 'np-ui-'))
  const evil = join(dir, '\u202e<img src=x onerror=alert(1)>')
  copyFileSync('/usr/bin/bash', evil)
  chmodSync(evil, 0o755)
  const program = l.inGateway(evil, '-c', 'exec 3<>/dev/tcp/203.0.113.30/7; while echo x >&3 && read -r y <&3; do read -r -t 0.2 z </dev/zero; done')
  // It is markup, and would be found if it were taken for that.
  assert.equal(await page.evaluate((text) => new DOMParser().parseFromString(text, 'text/html').querySelectorAll('img').length, evil.replace('onerror', 'alt')), 1)
  await page.locator('[data-filter]').fill('<img')
  await row('<img').waitFor()
  await row('<img').click()
  const details = page.getByRole('region', { name: 'Details of the connection' })
  await details.getByText('<img').first().waitFor()
  await details.getByText('⟨U+202E⟩<img').first().waitFor()
  await page.locator('[data-filter]').fill('')
  assert.equal(await page.locator('img, .table script, .details script').count(), 0)
  program.kill()
  rmSync(dir, { recursive: true })
  // Names of hosts and users, rules and what they say can't be markup in this lab: an answer in which they are.
  const markup = (what) => `<img src=x alt=${what}><script>${what}</script>`
  const list = /\/api\/v1\/connections\?/
  await page.route(list, async (route) => {
    const response = await route.fetch()
    const body = await response.json()
    const [f] = body.flows
    if (f) {
      const flow = { ...f.flow, sni: markup('sni'), http_host: markup('host'), process: markup('process'), user: markup('user') }
      const decision = { ...f.decision, rule: markup('rule'), route: markup('route'), why: markup('why') }
      body.flows.push({ ...f, id: '4000000000', flow, decision, name: markup('name'), name_from: 'sni', uplink: markup('uplink') })
      body.total++
    }
    await route.fulfill({ response, json: body })
  })
  await page.locator('[data-filter]').fill('alt=name')
  await row('<img src=x alt=name>').click()
  for (const what of ['name', 'process', 'rule', 'why', 'uplink']) {
    await page.getByRole('region', { name: 'Details of the connection' }).getByText(`<img src=x alt=${what}>`).first().waitFor()
  }
  assert.equal(await page.locator('img, .table script, .details script').count(), 0)
  await page.unrouteAll({ behavior: 'wait' })
  await page.keyboard.press('Escape')
  await page.locator('[data-filter]').fill('')
  // A reason is in the state, in the log, and on the time line.
  l.run('state', 'force', 'DEGRADED', '--uplink', 'wan2', '--for', '1h', '--reason', markup('reason'))
  for (const [id, title] of [['state', 'State'], ['logs', 'Logs']]) {
    await go(page, id, title)
    await page.locator('main').getByText('<img src=x alt=reason>').locator('visible=true').first().waitFor()
    assert.equal(await page.locator('img, main script').count(), 0, id)
    await sound(id)
  }
  l.run('state', 'clear', '--uplink', 'wan2')
})

test('settings, languages, dark, phone', async () => {
  await go(page, 'settings', 'Settings')
  await sound('settings')
  await page.getByLabel('Dark').check()
  assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor), 'rgb(18, 22, 24)')
  for (const id of ['connections', 'state', 'uplinks', 'policy', 'change', 'logs']) {
    await page.evaluate((p) => (location.hash = `#/${p}`), id)
    await shown(id)
    await sound(`dark ${id}`)
    if (id === 'uplinks') await shot('dark')
  }
  await go(page, 'settings', 'Settings')
  for (const [tag, dir, word] of [['id', 'ltr', 'Pengaturan'], ['zh-CN', 'ltr', '设置'], ['ru', 'ltr', 'Настройки'], ['fa', 'rtl', 'تنظیمات']]) {
    await page.locator('select').first().selectOption(tag)
    await page.locator('h1#page', { hasText: word }).waitFor()
    assert.equal(await page.evaluate(() => `${document.documentElement.dir} ${document.documentElement.lang}`), `${dir} ${tag}`)
    await sound(tag)
    // The longest words are looked for on the fullest pages; axe.test.mjs has all of them.
    for (const id of ['state', 'change', 'policy', 'xray']) {
      await page.evaluate((p) => (location.hash = `#/${p}`), id)
      await shown(id)
      assert.deepEqual(await layoutFindings(page), [], `${tag} ${id}`)
    }
    await page.evaluate(() => (location.hash = '#/settings'))
    await page.locator('h1#page', { hasText: word }).waitFor()
  }
  await page.getByLabel('روشن').check()
  await page.evaluate(() => (location.hash = '#/connections'))
  await page.locator('.table .rows [role=row]').nth(5).waitFor()
  await shot('fa')
  await sound('fa connections')
  await page.setViewportSize({ width: 390, height: 780 })
  await sound('fa phone')
  await page.evaluate(() => (location.hash = '#/settings'))
  await page.locator('h1#page', { hasText: 'تنظیمات' }).waitFor()
  await page.locator('select').first().selectOption('en')
  for (const id of ['connections', 'explain', 'state', 'uplinks', 'policy', 'change', 'xray', 'logs']) {
    await page.getByRole('button', { name: 'Menu' }).click()
    await page.locator(`nav a[href="#/${id}"]`).click()
    await shown(id)
    await sound(`phone ${id}`)
    if (id === 'connections') await shot('phone')
  }
})

test('signing out ends it', async () => {
  await page.setViewportSize({ width: 1280, height: 800 })
  await go(page, 'settings', 'Settings')
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByLabel('Token').waitFor()
  assert.equal((await page.request.get(`${l.url}api/v1/status`)).status(), 401)
  assert.deepEqual(await page.wrong(), [])
})
