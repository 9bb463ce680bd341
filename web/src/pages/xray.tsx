import { mayChange, post, session } from '../lib/api'
import { type Call, Generator } from '../xray/core'
import { XrayDocument } from '../xray/document'
import { XrayGenerator } from '../xray/generator'
import { Manager } from '../xray/manager'
import { Subscriptions } from '../xray/subscriptions'
import type { Try } from '../xray/trial'
import { Title } from '../ui/parts'

const call: Call = (name, request) => post(`xray/${name}`, request)
const tryLink: Try = (link, url) => post('xray-test', { link, url })

// The profiles outlive the page that shows them, but not the session: they have secrets.
let doc: XrayDocument
session.subscribe((who) => {
  if (!who || !doc) doc = new XrayDocument(new Generator(call))
})
export const current = () => doc

export default function XrayPage() {
  return (
    <>
      <Title page="nav.xray" />
      <Manager />
      <Subscriptions />
      <XrayGenerator doc={doc} onTry={mayChange() ? tryLink : undefined} />
    </>
  )
}
