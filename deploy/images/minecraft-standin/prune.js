// prune.js VERSION FROM TO: copies those data files of minecraft-data that one version of the game
// (Java edition) needs, with the index that names them.
'use strict'
const fs = require('fs')
const path = require('path')

const [version, from, to] = process.argv.slice(2)
const index = JSON.parse(fs.readFileSync(path.join(from, 'dataPaths.json'), 'utf8'))
const wanted = index.pc[version]
if (!wanted) {
  console.error(`minecraft-data has no version ${version}`)
  process.exit(1)
}
const folders = new Set([...Object.values(wanted), 'pc/common', 'pc/latest', 'bedrock/common'])
fs.mkdirSync(to, { recursive: true })
fs.copyFileSync(path.join(from, 'dataPaths.json'), path.join(to, 'dataPaths.json'))
for (const folder of folders) {
  const source = path.join(from, folder)
  if (fs.existsSync(source)) fs.cpSync(source, path.join(to, folder), { recursive: true })
}
