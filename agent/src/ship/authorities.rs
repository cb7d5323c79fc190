//! The installation's authorities, as one node knows them.
//!
//! Pure. The first is the one the node enrolled with; each later one is believed because one that was
//! believed before says so. One that was retired by a later one is trusted no longer, yet what it once
//! signed stays signed.

use rustls::pki_types::CertificateDer;
use tallystick_common::keys::{
    AuthorityRetirement, AuthoritySuccession, PublicKey, ReceiptKeyCertificate, Signed,
};

use super::tls;

/// Those known, the oldest first; never without one that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    known: Vec<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    certificate: CertificateDer<'static>,
    key: PublicKey,
    retired: bool,
}

impl Known {
    fn new(certificate: Vec<u8>) -> Result<Self, rustls::Error> {
        let certificate = CertificateDer::from(certificate);
        let key = PublicKey(tls::authority_key(&certificate)?);
        Ok(Self {
            certificate,
            key,
            retired: false,
        })
    }
}

impl Authorities {
    /// Of a node that enrolled with this one.
    ///
    /// # Errors
    /// When the bytes are no certificate of an Ed25519 key.
    pub fn new(first: Vec<u8>) -> Result<Self, rustls::Error> {
        Ok(Self {
            known: vec![Known::new(first)?],
        })
    }

    /// Takes up what can be believed; true when something of it is new.
    pub fn learn(
        &mut self,
        successions: &[Signed<AuthoritySuccession>],
        retirements: &[Signed<AuthorityRetirement>],
    ) -> bool {
        let before = self.clone();
        // Given the oldest first, as they are; each is believed on the word of those before it.
        for succession in successions {
            self.learn_succession(succession);
        }
        for retirement in retirements {
            self.learn_retirement(retirement);
        }
        *self != before
    }

    fn learn_succession(&mut self, succession: &Signed<AuthoritySuccession>) {
        let said = self
            .known
            .iter()
            .find_map(|known| succession.verify(&known.key).ok());
        let next = said.and_then(|said| Known::new(said.certificate).ok());
        if let Some(next) = next.filter(|next| self.position(&next.key).is_none()) {
            self.known.push(next);
        }
    }

    /// Only a later one retires an earlier one, so that one is always left.
    fn learn_retirement(&mut self, retirement: &Signed<AuthorityRetirement>) {
        let said = self
            .known
            .iter()
            .enumerate()
            .filter(|(_, known)| !known.retired)
            .find_map(|(by, known)| Some((by, retirement.verify(&known.key).ok()?)));
        let Some((by, said)) = said else {
            return;
        };
        if let Some(which) = self.position(&said.key).filter(|which| *which < by) {
            self.known[which].retired = true;
        }
    }

    fn position(&self, key: &PublicKey) -> Option<usize> {
        self.known.iter().position(|known| known.key == *key)
    }

    /// Certificates that servers are believed by.
    #[must_use]
    pub fn trusted(&self) -> Vec<CertificateDer<'static>> {
        let trusted = self.known.iter().filter(|known| !known.retired);
        trusted.map(|known| known.certificate.clone()).collect()
    }

    /// Keys that certify what signs receipts now.
    #[must_use]
    pub fn trusted_keys(&self) -> Vec<PublicKey> {
        let trusted = self.known.iter().filter(|known| !known.retired);
        trusted.map(|known| known.key).collect()
    }

    /// Keys that certified something once.
    #[must_use]
    pub fn all_keys(&self) -> Vec<PublicKey> {
        self.known.iter().map(|known| known.key).collect()
    }

    /// Those of `keys` that one that is trusted certified.
    #[must_use]
    pub fn certified(
        &self,
        keys: &[Signed<ReceiptKeyCertificate>],
    ) -> Vec<Signed<ReceiptKeyCertificate>> {
        let trusted = self.trusted_keys();
        let by_one = |signed: &&Signed<ReceiptKeyCertificate>| {
            trusted.iter().any(|key| signed.verify(key).is_ok())
        };
        keys.iter().filter(by_one).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use tallystick_common::keys::SecretKey;
    use tallystick_common::time::Timestamp;

    use super::*;
    use crate::ship::enroll::NodeKeys;

    /// An authority: its key and its certificate.
    fn authority() -> (SecretKey, Vec<u8>) {
        let keys = NodeKeys::draw().unwrap();
        let (key, enrolment) = crate::identity::tests::enrolment(keys, &[]);
        (key, enrolment.ca)
    }

    fn succession(by: &SecretKey, next: &[u8]) -> Signed<AuthoritySuccession> {
        let certificate = next.to_vec();
        let from = Timestamp::EPOCH;
        Signed::new(&AuthoritySuccession { certificate, from }, by)
    }

    fn retirement(by: &SecretKey, of: &SecretKey) -> Signed<AuthorityRetirement> {
        let (key, from) = (of.public(), Timestamp::EPOCH);
        Signed::new(&AuthorityRetirement { key, from }, by)
    }

    #[test]
    fn each_is_believed_on_the_word_of_one_before_and_retired_by_a_later_one_only() {
        let [(a, a_der), (b, b_der), (c, c_der)] = [authority(), authority(), authority()];
        let mut known = Authorities::new(a_der.clone()).unwrap();
        let stranger = authority().0;
        assert!(!known.learn(&[succession(&stranger, &b_der)], &[]));
        assert!(
            !known.learn(&[succession(&b, &c_der)], &[]),
            "b is not known yet"
        );
        assert!(known.learn(&[succession(&a, &b_der), succession(&b, &c_der)], &[]));
        assert_eq!(known.trusted_keys(), [a.public(), b.public(), c.public()]);
        assert!(!known.learn(&[succession(&a, &b_der)], &[]), "nothing new");

        assert!(!known.learn(&[], &[retirement(&a, &b), retirement(&c, &c)]));
        assert!(known.learn(&[], &[retirement(&c, &a)]));
        assert_eq!(known.trusted_keys(), [b.public(), c.public()]);
        assert_eq!(known.all_keys().len(), 3);
        assert!(
            !known.learn(&[succession(&a, &a_der)], &[retirement(&a, &b)]),
            "a retired one retires nobody"
        );
    }
}
