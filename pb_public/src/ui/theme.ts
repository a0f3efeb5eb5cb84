// Mantine's theme: the accent, the slate, the fonts. Contrast figures are WCAG 2 ratios.
import {
  createTheme,
  defaultVariantColorsResolver,
  localStorageColorSchemeManager,
  type MantineColorsTuple,
  type VariantColorsResolver,
} from '@mantine/core';

// Light uses shade 8: white on it 7.2:1, it on the page 6.7:1. Dark uses shade 4: near-black on it 8.6:1.
const mamba: MantineColorsTuple = [
  '#effaf4',
  '#d8f2e4',
  '#aee4c7',
  '#7fd4a7',
  '#4fc487',
  '#2bb06d',
  '#16945a',
  '#0f7a4b',
  '#0b643f',
  '#084b30',
];
const gray: MantineColorsTuple = [
  '#f6f8f9',
  '#eef1f3',
  '#e1e6ea',
  '#ccd4da',
  '#a9b4bd',
  '#7b8893',
  '#52606b',
  '#3d4852',
  '#283038',
  '#13191e',
];
const dark: MantineColorsTuple = [
  '#e7ebee',
  '#bdc6cd',
  '#9ba8b1',
  '#6c7a85',
  '#3b464e',
  '#2a333a',
  '#1b2227',
  '#11161a',
  '#0c1013',
  '#07090b',
];
const red: MantineColorsTuple = [
  '#fff0ef',
  '#ffdedb',
  '#ffbab5',
  '#ff938b',
  '#ff8178',
  '#ec5850',
  '#d43a32',
  '#bd2a23',
  '#a8201a',
  '#7f1510',
];

// Mantine decides the text on a filled control by the light scheme's shade alone; ours differ by scheme.
const variantColorResolver: VariantColorsResolver = (input) => {
  const made = defaultVariantColorsResolver(input);
  const red = input.color === 'red';
  if (input.variant === 'filled') return { ...made, color: red ? 'var(--mh-on-broken)' : 'var(--mh-on-accent)' };
  if (input.variant === 'subtle' && red) return { ...made, color: 'var(--mh-broken)' };
  if (input.variant === 'subtle' && !red && input.color !== 'gray') return { ...made, color: 'var(--mh-accent)' };
  return made;
};

export const theme = createTheme({
  variantColorResolver,
  primaryColor: 'mamba',
  colors: { mamba, gray, dark, red },
  primaryShade: { light: 8, dark: 4 },
  black: '#13191e',
  fontFamily: "'Inter Variable', system-ui, -apple-system, 'Segoe UI', sans-serif",
  fontFamilyMonospace: "'JetBrains Mono Variable', ui-monospace, 'Cascadia Mono', Menlo, monospace",
  fontSizes: { xs: '0.75rem', sm: '0.875rem', md: '0.9375rem', lg: '1.0625rem', xl: '1.25rem' },
  headings: {
    fontWeight: '620',
    sizes: {
      h1: { fontSize: '1.625rem', lineHeight: '1.25' },
      h2: { fontSize: '1.125rem', lineHeight: '1.35' },
      h3: { fontSize: '0.9375rem', lineHeight: '1.4' },
    },
  },
  defaultRadius: 8,
  cursorType: 'pointer',
  respectReducedMotion: true,
  focusRing: 'auto',
  components: {
    TextInput: { defaultProps: { size: 'md' } },
    PasswordInput: { defaultProps: { size: 'md' } },
    NativeSelect: { defaultProps: { size: 'md' } },
    Button: { defaultProps: { size: 'sm' } },
    Tooltip: { defaultProps: { openDelay: 300, transitionProps: { duration: 100 } } },
    Menu: {
      // The placeholder is no menu item, so a menu must not hold it; the focus goes to the first item.
      defaultProps: { transitionProps: { duration: 80 }, shadow: 'md', withInitialFocusPlaceholder: false },
    },
    Modal: {
      defaultProps: { transitionProps: { duration: 120 }, centered: true, overlayProps: { backgroundOpacity: 0.45 } },
    },
  },
});

/** Remembers the choice; public/theme.js reads the same key before the first paint. */
export const schemes = localStorageColorSchemeManager({ key: 'mamba.theme' });
