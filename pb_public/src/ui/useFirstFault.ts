import { useEffect, useRef } from 'react';

/** For a long form: when it was found wrong, the first field that is has the focus, and is in sight. */
export function useFirstFault(faults: Record<string, string>) {
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (Object.values(faults).some((text) => text !== ''))
      form.current?.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
  }, [faults]);
  return form;
}
