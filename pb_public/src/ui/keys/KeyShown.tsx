import { Button } from '@mantine/core';
import { IconCheck, IconCopy } from '@tabler/icons-react';
import { useEffect, useRef, useState } from 'react';
import { copyText } from '@/actions/copyText';
import type { MadeKey } from '@/api/views';
import { t } from '@/texts';
import { Card, Notice } from '../Card';
import classes from './keys.module.css';

/** A new key, the one time that it is to be seen. */
export function KeyShown({ made, onClose }: { made: MadeKey; onClose: () => void }) {
  const [copied, setCopied] = useState(false);
  const first = useRef<HTMLButtonElement>(null);
  useEffect(() => first.current?.focus(), []);
  return (
    <Card title={t('keys.madeTitle', { name: made.name })}>
      <div className={classes.secret}>
        <Notice tone="attention">{t('keys.once')}</Notice>
        <code className="mono" data-testid="secret">
          {made.secret}
        </code>
        <div className={classes.actions}>
          <Button
            ref={first}
            leftSection={
              copied ? <IconCheck size={17} aria-hidden="true" /> : <IconCopy size={17} aria-hidden="true" />
            }
            onClick={async () => setCopied(await copyText(made.secret))}
          >
            {copied ? t('action.copied') : t('keys.copy')}
          </Button>
          <Button variant="default" onClick={onClose}>
            {t('keys.kept')}
          </Button>
        </div>
      </div>
    </Card>
  );
}
