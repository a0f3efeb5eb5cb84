import { Button } from '@mantine/core';
import { IconCheck } from '@tabler/icons-react';
import { type ReactNode, useEffect, useRef } from 'react';
import { t } from '@/texts';
import classes from './wizard.module.css';

interface Props {
  n: number;
  title: string;
  state: 'open' | 'done' | 'todo';
  /** What was decided, shown while the step is closed. */
  said?: string;
  onChange?: () => void;
  children?: ReactNode;
}

/** One of the three steps: open, or one line that says what was decided. Takes the focus as it opens. */
export function WizardStep({ n, title, state, said, onChange, children }: Props) {
  const heading = useRef<HTMLHeadingElement>(null);
  const before = useRef(state);
  useEffect(() => {
    if (state === 'open' && before.current !== 'open') {
      heading.current?.focus({ preventScroll: true });
      heading.current?.scrollIntoView({ block: 'start' });
    }
    before.current = state;
  }, [state]);
  return (
    <section className={classes.step} data-state={state} aria-current={state === 'open' ? 'step' : undefined}>
      <header>
        <span className={classes.number} aria-hidden="true">
          {state === 'done' ? <IconCheck size={16} stroke={2.4} /> : n}
        </span>
        <h2 ref={heading} tabIndex={-1} aria-label={`${t('create.step', { n })}: ${title}`}>
          {title}
        </h2>
        {state === 'done' && (
          <>
            <span className={classes.said}>{said}</span>
            <Button
              variant="subtle"
              size="compact-sm"
              onClick={onChange}
              aria-label={`${t('action.change')}: ${title}`}
            >
              {t('action.change')}
            </Button>
          </>
        )}
      </header>
      {state === 'open' && <div className={classes.content}>{children}</div>}
    </section>
  );
}
