import { Button, Modal } from '@mantine/core';
import { copyText } from '@/actions/copyText';
import { t } from '@/texts';
import { toastDone } from '@/ui/toast';
import classes from './factors.module.css';

/** Ten codes, shown this once. */
export function BackupCodes({ codes, close }: { codes: string[]; close: () => void }) {
  const text = codes.join('\n');
  const copy = async () => {
    if (await copyText(text)) toastDone(t('factor.copied'));
  };
  return (
    <Modal
      opened={codes.length > 0}
      onClose={close}
      closeOnClickOutside={false}
      title={t('factor.backupTitle')}
      closeButtonProps={{ 'aria-label': t('action.close') }}
    >
      <div className={classes.form}>
        <p>{t('factor.backupLead')}</p>
        <ul className={classes.codes} data-testid="backup-codes">
          {codes.map((code) => (
            <li key={code}>{code}</li>
          ))}
        </ul>
        <div className={classes.actions}>
          <Button variant="default" onClick={() => void copy()}>
            {t('factor.copyAll')}
          </Button>
          <Button
            variant="default"
            component="a"
            href={`data:text/plain;charset=utf-8,${encodeURIComponent(`${text}\n`)}`}
            download="backup-codes.txt"
          >
            {t('factor.download')}
          </Button>
          <Button onClick={close}>{t('factor.kept')}</Button>
        </div>
      </div>
    </Modal>
  );
}
