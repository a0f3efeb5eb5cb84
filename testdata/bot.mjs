// usage: node bot.mjs MODULES PORT NAME TEXT
//
// A player: joins the Minecraft 1.20.4 server on 127.0.0.1:PORT without an account, waits until it
// stands in the world, says TEXT, and leaves once the server has sent TEXT to everybody. It prints
// what it met as one line of JSON. MODULES is the node_modules folder with minecraft-protocol.
import { createRequire } from 'node:module'
import path from 'node:path'

const [modules, port, username, text] = process.argv.slice(2)
const protocol = createRequire(path.resolve(modules, 'bot.cjs'))('minecraft-protocol')
const client = protocol.createClient({ host: '127.0.0.1', port: Number(port), username, auth: 'offline', version: '1.20.4' })

const met = { name: '', entity: null, position: null, heard: '' }
let said = false
function fail (why) {
  console.error(`bot: ${why}; met ${JSON.stringify(met)}`)
  process.exit(1)
}
setTimeout(() => fail('60 s have passed'), 60_000)

client.on('error', (err) => fail(err.stack))
client.on('kick_disconnect', (packet) => fail(`kicked: ${JSON.stringify(packet.reason)}`))
client.on('disconnect', (packet) => fail(`disconnected: ${JSON.stringify(packet.reason)}`))
client.on('end', (reason) => fail(`the connection ended: ${reason}`))
client.on('success', (packet) => { met.name = packet.username })
client.on('login', (packet) => { met.entity = packet.entityId; speak() })
client.on('position', (packet) => {
  met.position = [packet.x, packet.y, packet.z]
  client.write('teleport_confirm', { teleportId: packet.teleportId })
  speak()
})
for (const kind of ['systemChat', 'playerChat']) client.on(kind, hear)

function speak () {
  if (said || met.entity === null || met.position === null) return
  said = true
  client.chat(text)
}

function hear (message) {
  const words = JSON.stringify(message)
  if (!said || !words.includes(text)) return
  met.heard = words
  console.log(JSON.stringify(met))
  client.removeAllListeners('end')
  client.on('end', () => process.exit(0))
  client.end('done')
}
