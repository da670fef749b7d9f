// What stands in front of the database in these tests: an Auth server, a gateway that gives it and PostgREST the addresses
// supabase-js asks for, and supabase-js itself, told on stdin what to call. Everything is on 127.0.0.1.

import { createHmac } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { App, InMemoryEmailDriver } from '@supabase/lite'
import { createPostgresConnection } from '@supabase/lite/postgres'

const { db, rest, port, secret, readme, scratch } = JSON.parse(process.argv[2])

// The Auth server, as the role it has at Supabase. Its driver would stringify JSON that is a string already.
const json = (oid) => ({ to: oid, from: [oid], serialize: (v) => (typeof v === 'string' ? v : JSON.stringify(v)), parse: JSON.parse })
const connection = createPostgresConnection({
  url: db,
  postgresOptions: { max: 4, connection: { search_path: 'auth' }, types: { json: json(114), jsonb: json(3802) } },
})
// It invents a uuid for refresh_tokens.id, which is a bigint with a default.
connection.kysely = connection.kysely.withPlugin({
  transformQuery({ node }) {
    if (node.kind !== 'InsertQueryNode' || node.into?.table?.identifier?.name !== 'refresh_tokens') return node
    const at = node.columns.findIndex((c) => c.column.name === 'id')
    const without = (list) => list.filter((_, i) => i !== at)
    return {
      ...node,
      columns: without(node.columns),
      values: { ...node.values, values: node.values.values.map((row) => ({ ...row, values: without(row.values) })) },
    }
  },
  transformResult: async ({ result }) => result,
})
const mails = new InMemoryEmailDriver()
const url = `http://127.0.0.1:${port}`
const auth = { enabled: true, jwt_secret: secret, site_url: url, email: { enable_confirmations: false, double_confirm_changes: false } }
const app = (confirm) =>
  new App({
    connection,
    auth: { ...auth, email: { ...auth.email, enable_confirmations: confirm } },
    options: { drivers: { email: mails }, server: { apiKeys: false } },
  })
// One that confirms at once, and one that waits for the link in its mail.
const [atOnce, byMail] = [app(false), app(true)]
let waiting = false

http
  .createServer(async (request, response) => {
    try {
      const chunks = []
      for await (const chunk of request) chunks.push(chunk)
      const body = chunks.length ? Buffer.concat(chunks) : undefined
      const headers = { ...request.headers }
      let answer
      if (request.url.startsWith('/rest/v1')) {
        delete headers.host
        delete headers.connection
        delete headers['content-length']
        answer = await fetch(`${rest}${request.url.slice('/rest/v1'.length)}`, { method: request.method, headers, body })
      } else {
        const of = waiting ? byMail : atOnce
        answer = await of.fetch(new Request(`${url}${request.url}`, { method: request.method, headers, body }))
      }
      const text = Buffer.from(await answer.arrayBuffer())
      const kept = [...answer.headers].filter(([name]) => !['content-encoding', 'content-length', 'transfer-encoding'].includes(name))
      response.writeHead(answer.status, Object.fromEntries(kept)).end(text)
    } catch (error) {
      response.writeHead(599).end(String(error?.stack ?? error))
    }
  })
  .listen(port, '127.0.0.1')

// Keys as Supabase issues them: tokens for the roles anon and service_role.
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
function token(claims) {
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: 4102444800, ...claims })}`
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
}
Object.assign(process.env, {
  SUPABASE_URL: url,
  SUPABASE_ANON_KEY: token({ role: 'anon' }),
  SUPABASE_SERVICE_ROLE_KEY: token({ role: 'service_role' }),
})

// The blocks ```ts of the README, by the words of their first line. Each runs as it stands there, after the block "Clients".
const blocks = {}
for (const [, text] of readFileSync(readme, 'utf8').matchAll(/^```ts\n(.*?)^```$/gms)) {
  blocks[text.match(/^\/\/ ([^:\n]*)/)?.[1].trim()] = text
}
mkdirSync(scratch, { recursive: true })
let count = 0
async function load(title, text) {
  const [, imports, clients] = blocks['Clients'].match(/^((?:\/\/[^\n]*\n|import [^\n]*\n)*)(.*)$/s)
  const file = `${scratch}/${++count}.ts`
  writeFileSync(
    file,
    `${imports}
const { SUPABASE_URL, SUPABASE_ANON_KEY, SUPABASE_SERVICE_ROLE_KEY } = process.env as Record<string, string>
export default async function ({ session, email, password, username, newEmail, user, args }: any) {
  ${clients}
  if (session) await supabase.auth.setSession(session)
  {
    // ${title}
    ${text}
    return { data, error, status: (typeof result === 'undefined' ? {} : result as any).status }
  }
}
declare const result: any
`,
  )
  return (await import(file)).default
}
const loaded = {}

async function run({ title, code, waits, ...vars }) {
  waiting = Boolean(waits)
  const key = code ?? title
  if (!code && !blocks[title]) throw new Error(`README has no block "${title}"`)
  loaded[key] ??= await load(title ?? 'a call', code ?? blocks[title])
  return await loaded[key](vars)
}

async function obey(order) {
  if (order.titles) return Object.keys(blocks)
  if (order.mails) return mails.messages.get(order.mails) ?? []
  if (order.get) {
    const answer = await fetch(order.get, { redirect: 'manual' })
    return { status: answer.status, location: answer.headers.get('location') }
  }
  if (order.raw) {
    const headers = { 'content-type': 'application/json', 'content-profile': 'onagui', 'accept-profile': 'onagui' }
    if (order.token) headers.authorization = `Bearer ${token(order.token)}`
    const answer = await fetch(`${url}/rest/v1${order.raw}`, { method: order.method ?? 'POST', headers, body: order.body })
    return { status: answer.status, body: await answer.text() }
  }
  return await run(order)
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    answer = { ok: await obey(JSON.parse(line)) }
  } catch (error) {
    answer = { failed: String(error?.stack ?? error) }
  }
  const plain = (_, value) => (value instanceof Error ? { ...value, message: value.message, name: value.name } : value)
  process.stdout.write(`${JSON.stringify(answer, plain)}\n`)
}
process.exit(0)
