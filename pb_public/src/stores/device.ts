// Which device a session is on, as far as its browser says.

/** In the order in which they are looked for: most browsers name several others, too. */
const browsers: [RegExp, string][] = [
  [/\bEdg(?:e|A|iOS)?\//, 'Edge'],
  [/\bOPR\/|\bOPX\/|\bOPT\/|\bOpera\b/, 'Opera'],
  [/\bSamsungBrowser\//, 'Samsung Internet'],
  [/\bVivaldi\//, 'Vivaldi'],
  [/\bYaBrowser\//, 'Yandex'],
  [/\bDuckDuckGo\/|\bDdg\//, 'DuckDuckGo'],
  [/\bFirefox\/|\bFxiOS\//, 'Firefox'],
  [/\bHeadlessChrome\//, 'Headless Chrome'],
  [/\bChromium\//, 'Chromium'],
  [/\bChrome\/|\bCriOS\//, 'Chrome'],
  [/\bVersion\/\S+ (?:Mobile\/\S+ )?Safari\//, 'Safari'], // all of the above end in "Safari", too
];

const systems: [RegExp, string][] = [
  [/\biPhone\b/, 'iPhone'],
  [/\biPad\b/, 'iPad'],
  [/\bAndroid\b/, 'Android'],
  [/\bWindows\b/, 'Windows'],
  [/\bMac OS X\b|\bMacintosh\b/, 'macOS'],
  [/\bCrOS\b/, 'ChromeOS'],
  [/\bLinux\b/, 'Linux'],
];

export interface Device {
  /** A browser's name, or the first word of another program's; empty when nothing is said that could be one. */
  program: string;
  system: string;
  handheld: boolean;
}

export function deviceOf(userAgent: string): Device {
  const find = (list: [RegExp, string][]) => list.find(([form]) => form.test(userAgent))?.[1] ?? '';
  const system = find(systems);
  const first = userAgent.split(/[/\s]/)[0] ?? '';
  return {
    program: find(browsers) || (first === 'Mozilla' ? '' : first), // every browser begins so
    system,
    handheld: system === 'iPhone' || system === 'iPad' || system === 'Android',
  };
}
