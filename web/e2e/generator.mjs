// What is asked of the generator, on whichever page it stands.
import assert from 'node:assert/strict'
import { links } from './links.mjs'

// parts are a link taken apart by the browser's own means, not by ours.
function parts(link) {
  const [, scheme, rest] = /^([a-z0-9]+):\/\/(.*)$/s.exec(link)
  const [head, name = ''] = rest.split('#')
  const [address, query = ''] = head.split('?')
  const params = Object.fromEntries(query.split('&').filter(Boolean).map((p) => p.split('=').map((x) => decodeURIComponent(x))))
  return { scheme, address, params, name: decodeURIComponent(name) }
}

// everyLink puts the sixty links through the generator and back: the form shows
// every key with its value, and the link that is written after an edit has them all.
export async function everyLink(page) {
  const text = page.getByRole('textbox', { name: 'Text', exact: true })
  await text.fill(links.map((l) => l.link).join('\n'))
  await page.getByRole('heading', { name: '60 profiles' }).waitFor()
  // In the page itself, since sixty times the tool's own clicks and waits take a minute.
  const shown = await page.evaluate(async (links) => {
    const until = async (what, ok) => {
      for (let i = 0; i < 3000; i++) {
        if (ok()) return
        await new Promise((done) => setTimeout(done, 10))
      }
      throw new Error(`it never happens: ${what}`)
    }
    const entry = (key) => document.getElementById(`x-${key}`)
    const written = (i) => document.querySelector('.xray .text textarea').value.split('\n')[i] ?? ''
    const out = []
    for (const [i, l] of links.entries()) {
      document.querySelectorAll('.profiles button')[i].click()
      await until(`the form of ${l.link}`, () => entry('#host')?.value === l.host && Object.keys(l.params).every((k) => entry(k)))
      out.push(Object.fromEntries([...document.querySelectorAll('[data-test=xray-form] [id^="x-"]:is(input, select, textarea)')].map((e) => [e.id.slice(2), e.value])))
      const name = entry('#name')
      const renamed = `${l.name} again`
      name.value = renamed
      name.dispatchEvent(new Event('change', { bubbles: true }))
      await until(`${l.link} with another name`, () => decodeURIComponent(written(i).split('#')[1] ?? '') === renamed)
    }
    return out
  }, links)
  for (const [i, l] of links.entries()) {
    assert.equal(shown[i]['#name'], l.name, l.link)
    assert.equal(shown[i]['#port'], l.port, l.link)
    for (const [key, value] of Object.entries(l.params)) assert.equal(shown[i][key], value, `${key} of ${l.link}`)
  }
  const written = (await text.inputValue()).trim().split('\n')
  assert.equal(written.length, 60)
  for (const [i, l] of links.entries()) {
    const [was, is] = [parts(l.link), parts(written[i])]
    assert.equal(is.name, `${l.name} again`)
    for (const [key, value] of Object.entries(was.params)) assert.equal(is.params[key], value, `${key} of ${l.link}, written as ${written[i]}`)
  }
  // Through base64 and back they are the same lines.
  await page.getByRole('tab', { name: 'Base64' }).click()
  await page.waitForFunction(() => /^[A-Za-z0-9+/=\s]+$/.test(document.querySelector('.xray .text textarea').value))
  await page.getByRole('tab', { name: 'Links' }).click()
  await page.waitForFunction(() => document.querySelector('.xray .text textarea').value.includes('://'))
  assert.deepEqual((await text.inputValue()).trim().split('\n'), written)
}
