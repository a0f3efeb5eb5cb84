/** The mark: an M drawn by one snake. Decorative; the name stands beside it or on what holds it. */
export function Logo({ size = 28 }: { size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" fill="#0b643f" />
      <path
        d="M7.5 24V12.75a4.25 4.25 0 0 1 8.5 0V18m0-5.25a4.25 4.25 0 0 1 8.5 0V19a4.5 4.5 0 0 1-4.5 4.5h-3"
        fill="none"
        stroke="#fff"
        strokeWidth="3.2"
        strokeLinecap="round"
        strokeLinejoin="round"
      />
      <path
        d="M16.2 23.5h-2.6m-1.6-1.5 1.6 1.5-1.6 1.5"
        fill="none"
        stroke="#7fd4a7"
        strokeWidth="1.4"
        strokeLinecap="round"
        strokeLinejoin="round"
      />
    </svg>
  );
}
