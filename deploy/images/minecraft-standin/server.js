// Stands for a Minecraft server in tests. The protocol is flying-squid's; what is here makes it look
// like vanilla from outside:
//
// - server.properties in the current folder is read, and written with defaults when it is missing:
//   server-port, server-ip, motd, max-players, online-mode, view-distance, level-name, level-type,
//   gamemode, difficulty. SERVER_PORT in the environment wins over server-port.
// - The console is lines of "[HH:MM:SS] [Server thread/INFO]: text"; readiness is
//   'Done (1.234s)! For help, type "help"'.
// - stdin takes help, list, say TEXT, stop. stop ends it with code 0, SIGTERM with 143, a port in use
//   with 1.
'use strict'
const fs = require('fs')
const readline = require('readline')
const { EventEmitter, once } = require('events')

const begun = process.hrtime.bigint()
const VERSION = '1.20.4'
const DEFAULTS = {
  'server-port': '25565',
  'server-ip': '',
  motd: 'A Minecraft Server',
  'max-players': '20',
  'online-mode': 'false', // there is nobody to ask
  'view-distance': '4',
  'level-name': 'world',
  'level-type': 'minecraft\\:flat',
  gamemode: 'survival',
  difficulty: 'easy'
}

function log (text, level = 'INFO') {
  const time = new Date().toISOString().slice(11, 19)
  process.stdout.write(`[${time}] [Server thread/${level}]: ${text}\n`)
}

function readProperties (file) {
  if (!fs.existsSync(file)) {
    const lines = ['#Minecraft server properties', ...Object.entries(DEFAULTS).map(([k, v]) => `${k}=${v}`)]
    fs.writeFileSync(file, lines.join('\n') + '\n')
  }
  const properties = { ...DEFAULTS }
  for (const line of fs.readFileSync(file, 'utf8').split(/\r?\n/)) {
    const match = /^\s*([^#!=:\s]+)\s*[=:]\s*(.*)$/.exec(line)
    if (match) properties[match[1]] = match[2].replace(/\\(.)/g, '$1')
  }
  return properties
}

function settingsFrom (properties) {
  const number = (key) => {
    const value = Number(properties[key])
    return Number.isInteger(value) ? value : Number(DEFAULTS[key])
  }
  const choice = (key, list) => Math.max(0, list.indexOf(properties[key]))
  return {
    ...require('flying-squid/config/default-settings.json'),
    version: VERSION,
    host: properties['server-ip'] || undefined,
    port: Number(process.env.SERVER_PORT) || number('server-port'),
    motd: properties.motd,
    'max-players': number('max-players'),
    'online-mode': properties['online-mode'] === 'true',
    'view-distance': number('view-distance'),
    worldFolder: properties['level-name'],
    generation: { name: /flat/.test(properties['level-type']) ? 'superflat' : 'diamond_square', options: {} },
    gameMode: choice('gamemode', ['survival', 'creative', 'adventure', 'spectator']),
    difficulty: choice('difficulty', ['peaceful', 'easy', 'normal', 'hard']),
    logging: false, // its own log files, besides the console
    noConsoleOutput: true
  }
}

// flying-squid's own console draws a prompt and moves a cursor; vanilla's does not.
readline.cursorTo = () => true
const createInterface = readline.createInterface
readline.createInterface = () => Object.assign(new EventEmitter(), { setPrompt () {}, prompt () {} })
const squid = require('flying-squid')

log(`Starting minecraft server version ${VERSION}`)
log('Loading properties')
const settings = settingsFrom(readProperties('server.properties'))
log(`Starting Minecraft server on ${settings.host || '*'}:${settings.port}`)
const server = squid.createMCServer(settings)

server.log = (message) => {
  const text = String(message)
    .replace(/\u001b\[[0-9;]*[A-Za-z]/g, '')
    .replace(/^\w+ \d+\w+ \d+, [\d:]+ /, '')
  const match = /^\[(INFO|WARN|ERROR)\]: ?([\s\S]*)$/.exec(text)
  log(match ? match[2] : text, match ? match[1] : 'INFO')
}
server.on('error', (err) => {
  if (err && err.code === 'EADDRINUSE') {
    log('**** FAILED TO BIND TO PORT!', 'WARN')
    log(`The exception was: ${err.message}`, 'WARN')
    process.exit(1)
  }
})
// Ready is who lets players in: the port is open before the world is there, and who comes between is sent away.
Promise.all([once(server, 'listening'), once(server, 'pluginsReady')]).then(() => {
  const seconds = Number(process.hrtime.bigint() - begun) / 1e9
  log(`Done (${seconds.toFixed(3)}s)! For help, type "help"`)
})

const commands = {
  help () {
    for (const line of ['/help', '/list', '/say <message>', '/stop']) log(line)
  },
  list () {
    const names = server.players.map((p) => p.username)
    log(`There are ${names.length} of a max of ${settings['max-players']} players online: ${names.join(', ')}`)
  },
  say (text) {
    server.broadcast(`[Server] ${text}`)
    log(`[Not Secure] [Server] ${text}`)
  },
  async stop () {
    log('Stopping the server')
    await Promise.race([server.quit('Server closed'), new Promise((resolve) => setTimeout(resolve, 2000))])
    process.exit(0)
  }
}
createInterface.call(readline, { input: process.stdin, terminal: false }).on('line', (line) => {
  const [name, ...rest] = line.trim().replace(/^\//, '').split(' ')
  if (name === '') return
  if (!Object.hasOwn(commands, name)) {
    log('Unknown or incomplete command, see below for error')
    log(`${line.trim()}<--[HERE]`)
    return
  }
  Promise.resolve(commands[name](rest.join(' '))).catch((err) => log(err.stack, 'ERROR'))
})
